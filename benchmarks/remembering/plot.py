"""Bars as an SVG picture, to be shown in a page. Decides what it looks like; knows nothing of what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 760, 250, 90
BAR, GAP, HEAD = 18, 8, 44
INK, PAPER, OURS, THEIRS = "#1f2933", "#ffffff", "#2f6fde", "#9aa5b1"


@dataclass(frozen=True, slots=True)
class Bar:
    """`shown`: the value in words. `is_reference`: what others are compared with."""

    label: str
    value: float
    shown: str
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return HEAD + len(self.bars) * (BAR + GAP) + GAP


def svg(panels: Sequence[Panel]) -> str:
    """Panels under each other, each to a scale of its own."""
    height = sum(panel.height for panel in panels) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
    ]
    top = 0
    for panel in panels:
        lines += _panel(panel, top)
        top += panel.height
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> list[str]:
    lines = [f'<text x="12" y="{top + 26}" font-size="15" font-weight="bold">{escape(panel.title)}</text>']
    longest = max((bar.value for bar in panel.bars), default=0.0) or 1.0
    for index, bar in enumerate(panel.bars):
        y = top + HEAD + index * (BAR + GAP)
        width = (WIDTH - LABELS - VALUES) * bar.value / longest
        colour = THEIRS if bar.is_reference else OURS
        lines += [
            f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LABELS + width + 6:.1f}" y="{y + 14}">{escape(bar.shown)}</text>',
        ]
    return lines
