"""Bars and lines as an SVG image, to be shown in a page. Decides what it looks like; knows nothing of what is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, LABELS, VALUES = 760, 250, 90
BAR, GAP, HEAD = 18, 8, 44
LINES_HEIGHT, AXIS, FOOT = 220, 64, 46
INK, PAPER, OURS, THEIRS, FAINT = "#1f2933", "#ffffff", "#2f6fde", "#9aa5b1", "#e4e7eb"
COLOURS = (OURS, "#c2571a", "#7d4fa3", "#157f8c", "#b23a72")


@dataclass(frozen=True, slots=True)
class Bar:
    """`shown`: the value in words. `is_reference`: what others are compared with."""

    label: str
    value: float
    shown: str
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A bar each, from 0 to the longest."""

    title: str
    bars: Sequence[Bar]

    @property
    def height(self) -> int:
        return HEAD + len(self.bars) * (BAR + GAP) + GAP

    def drawn(self, top: int) -> Iterable[str]:
        yield _title(self.title, top)
        longest = max((bar.value for bar in self.bars), default=0.0) or 1.0
        for index, bar in enumerate(self.bars):
            y = top + HEAD + index * (BAR + GAP)
            width = (WIDTH - LABELS - VALUES) * bar.value / longest
            colour = THEIRS if bar.is_reference else OURS
            yield f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
            yield f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>'
            yield f'<text x="{LABELS + width + 6:.1f}" y="{y + 14}">{escape(bar.shown)}</text>'


@dataclass(frozen=True, slots=True)
class Line:
    """`points`: x and y, x rising."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Lines:
    """A line each, over one pair of axes from 0; at most as many as there are `COLOURS`."""

    title: str
    x_axis: str
    y_axis: str
    lines: Sequence[Line]

    @property
    def height(self) -> int:
        return HEAD + LINES_HEIGHT + FOOT

    def drawn(self, top: int) -> Iterable[str]:
        yield _title(f"{self.title}: {self.y_axis}", top)
        x_end = max(x for line in self.lines for x, _ in line.points) or 1.0
        y_end = _round_end(max(y for line in self.lines for _, y in line.points))
        below, right = top + HEAD + LINES_HEIGHT, WIDTH - VALUES
        for part in (0.0, 0.5, 1.0):
            y = below - part * LINES_HEIGHT
            yield f'<path d="M {AXIS} {y:.1f} H {right}" stroke="{FAINT}"/>'
            yield f'<text x="{AXIS - 8}" y="{y + 4:.1f}" text-anchor="end">{part * y_end:g}</text>'
            x = AXIS + part * (right - AXIS)
            yield f'<text x="{x:.1f}" y="{below + 18}" text-anchor="middle">{part * x_end:g}</text>'
        yield f'<text x="{right + 8}" y="{below + 18}">{escape(self.x_axis)}</text>'
        for colour, line in zip(COLOURS, self.lines, strict=False):
            at = [(AXIS + (right - AXIS) * x / x_end, below - LINES_HEIGHT * y / y_end) for x, y in line.points]
            path = " L ".join(f"{x:.1f} {y:.1f}" for x, y in at)
            yield f'<path d="M {path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from self._legend(below + 38)

    def _legend(self, y: int) -> Iterable[str]:
        x = AXIS
        for colour, line in zip(COLOURS, self.lines, strict=False):
            yield f'<rect x="{x}" y="{y - 9}" width="14" height="4" fill="{colour}"/>'
            yield f'<text x="{x + 20}" y="{y - 3}">{escape(line.label)}</text>'
            x += 40 + 8 * len(line.label)


def svg(panels: Sequence[Panel | Lines]) -> str:
    """Panels under each other, each to a scale of its own."""
    height = sum(panel.height for panel in panels) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
    ]
    top = 0
    for panel in panels:
        lines += panel.drawn(top)
        top += panel.height
    return "\n".join([*lines, "</svg>"]) + "\n"


def _title(words: str, top: int) -> str:
    return f'<text x="12" y="{top + 26}" font-size="15" font-weight="bold">{escape(words)}</text>'


def _round_end(most: float) -> float:
    """The end of an axis: the next of 1, 2, 5 times a power of ten."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= most * (1 - 1e-9))
