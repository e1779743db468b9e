"""Draws a scene of the demo world as a 64 x 64 RGB image.

Decides what each shape's outline is and how edges are softened (drawn at twice the size, reduced with LANCZOS). Knows no
wording and no model, and is not used by the detector that judges paintings.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.world import BACKGROUNDS, COLOURS, SIZE, Place, Rgb, Scene

_SCALE = 2
_RING_HOLE = 0.55
_STAR_WAIST = 0.42
_CROSS_ARM = 0.34
_SQUARE_HALF = 0.85
_DIAMOND_HALF = 0.75

Points = list[tuple[float, float]]


def draw(scene: Scene) -> Image.Image:
    """The image of a scene."""
    background = BACKGROUNDS[scene.facts.background]
    canvas = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), background)
    pencil = ImageDraw.Draw(canvas)
    for thing, place in zip(scene.facts.things, scene.places, strict=True):
        _draw_kind(pencil, thing.kind, place, COLOURS[thing.colour], background)
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def pixels(scene: Scene) -> NDArray[np.uint8]:
    """The image of a scene as [64, 64, 3] bytes."""
    return np.asarray(draw(scene), dtype=np.uint8)


def outline(kind: str) -> Points:
    """The corners of a shape of radius 1 around (0, 0), y downwards; circles and rings have none and raise KeyError."""
    return _OUTLINES[kind]


def _draw_kind(pencil: ImageDraw.ImageDraw, kind: str, place: Place, colour: Rgb, background: Rgb) -> None:
    if kind in ("circle", "ring"):
        _disc(pencil, place, place.radius, colour)
        if kind == "ring":
            _disc(pencil, place, place.radius * _RING_HOLE, background)
        return
    corners = [(place.x + x * place.radius, place.y + y * place.radius) for x, y in outline(kind)]
    pencil.polygon([(x * _SCALE - 0.5, y * _SCALE - 0.5) for x, y in corners], fill=colour)


def _disc(pencil: ImageDraw.ImageDraw, place: Place, radius: float, colour: Rgb) -> None:
    left, top = (place.x - radius) * _SCALE - 0.5, (place.y - radius) * _SCALE - 0.5
    pencil.ellipse((left, top, left + 2 * radius * _SCALE, top + 2 * radius * _SCALE), fill=colour)


def _star() -> Points:
    angles = [math.pi * (index / 5 - 0.5) for index in range(10)]
    reach = [1.0 if index % 2 == 0 else _STAR_WAIST for index in range(10)]
    return [(r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(reach, angles, strict=True)]


def _heart() -> Points:
    turns = [2 * math.pi * index / 40 for index in range(40)]
    return [(_heart_x(turn), _heart_y(turn)) for turn in turns]


def _heart_x(turn: float) -> float:
    return math.sin(turn) ** 3


def _heart_y(turn: float) -> float:
    height = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn) - math.cos(4 * turn)
    return -(height + 2.5) / 16


def _cross() -> Points:
    a = _CROSS_ARM
    return [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]


_OUTLINES: dict[str, Points] = {
    "square": [(x * _SQUARE_HALF, y * _SQUARE_HALF) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)],
    "star": _star(),
    "heart": _heart(),
    "diamond": [(0.0, -1.0), (_DIAMOND_HALF, 0.0), (0.0, 1.0), (-_DIAMOND_HALF, 0.0)],
    "cross": _cross(),
}
