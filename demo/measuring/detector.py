"""Judges an image of the demo world with no network: what is in it, or that it is no proper image of this world.

Decides by colour segmentation and by comparing each blob with masks computed from the definitions of the shapes. It shares no
code with `demo.drawing`, so an error there shows here. Knows no sentences and no models.

An image is proper when its border is of one known background, and all that stands out of the background is one or two blobs,
each of one known colour and like enough to one shape.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.world import BACKGROUNDS, COLOURS, KINDS, Facts, Relation, Thing

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

_SIDE = 64
_BACKGROUND_LIMIT = 40.0  # RGB distance of the border from the palette's background
_COLOUR_LIMIT = 60.0  # RGB distance of a blob's median from the palette's colour
_STANDS_OUT = 45.0  # RGB distance from the background
_SMALLEST_BLOB = 40  # pixels; a smaller one is a speck
_MOST_SPECKS = 30  # pixels in specks, all together
_LIKENESS = 0.78  # intersection over union with the best mask
_STEPS = 2  # samples a pixel and axis, for masks
_MARGIN = 3  # pixels around a blob that its masks may reach into


@dataclass(frozen=True, slots=True)
class Blob:
    """Connected pixels that stand out, with what they look most like."""

    thing: Thing
    x: float
    y: float
    likeness: float


def describe(image: Image.Image) -> Facts | None:
    """The facts of an image, or None where it is no proper image of the demo world."""
    found = blobs(image)
    background = background_of(image)
    if background is None or found is None or not 1 <= len(found) <= 2:
        return None
    if any(blob.likeness < _LIKENESS for blob in found):
        return None
    if len(found) == 1:
        return Facts(background, (found[0].thing,))
    one, two = found
    if abs(one.x - two.x) >= abs(one.y - two.y):
        first, second = sorted(found, key=lambda blob: blob.x)
        return Facts(background, (first.thing, second.thing), Relation.LEFT)
    first, second = sorted(found, key=lambda blob: blob.y)
    return Facts(background, (first.thing, second.thing), Relation.ABOVE)


def background_of(image: Image.Image) -> str | None:
    """The palette's background that the border shows, or None."""
    rgb = _pixels(image)
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    name, distance = _nearest(np.median(border, axis=0), BACKGROUNDS)
    return name if distance <= _BACKGROUND_LIMIT else None


def blobs(image: Image.Image) -> list[Blob] | None:
    """Everything that stands out of the background, or None where that is of no known colour, touching, or too ragged."""
    rgb = _pixels(image)
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    ground = np.median(border, axis=0)
    parts = _connected(np.linalg.norm(rgb - ground, axis=2) > _STANDS_OUT)
    specks = sum(int(part.sum()) for part in parts if part.sum() < _SMALLEST_BLOB)
    if specks > _MOST_SPECKS:
        return None
    found = [_blob(rgb, ground, part) for part in parts if part.sum() >= _SMALLEST_BLOB]
    known = [blob for blob in found if blob is not None]
    return known if len(known) == len(found) else None


def _blob(rgb: Floats, ground: Floats, part: Mask) -> Blob | None:
    inner = part & _shifted_all(part)
    core = rgb[inner if inner.sum() >= 10 else part]
    colour = np.median(core, axis=0)
    name, distance = _nearest(colour, COLOURS)
    off_colour = np.linalg.norm(core - np.array(COLOURS[name]), axis=1) > 1.6 * _COLOUR_LIMIT
    if distance > _COLOUR_LIMIT or off_colour.mean() > 0.25:
        return None
    direction = colour - ground
    share = ((rgb - ground) @ direction) / (direction @ direction)
    solid = (share > 0.5) & _grown(part)
    kind, likeness = _best_kind(solid)
    rows, columns = np.nonzero(solid)
    return Blob(Thing(name, kind), float(columns.mean()), float(rows.mean()), likeness)


def _best_kind(solid: Mask) -> tuple[str, float]:
    """The shape with the best intersection over union; only the likeliest three are tried at many places and sizes."""
    scores = {kind: _likeness(kind, solid, [(1.0, 0.0, 0.0)]) for kind in KINDS}
    nudges = list(itertools.product((0.94, 1.0, 1.06), (-0.5, 0.0, 0.5), (-0.5, 0.0, 0.5)))
    for kind in sorted(KINDS, key=lambda kind: -scores[kind])[:3]:
        scores[kind] = _likeness(kind, solid, nudges)
    best = max(scores, key=lambda kind: scores[kind])
    return best, scores[best]


def _likeness(kind: str, solid: Mask, nudges: list[tuple[float, float, float]]) -> float:
    """The best intersection over union with the shape's mask, over (scale, right, down) away from the blob's own box."""
    rows, columns = np.nonzero(solid)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    box = _UNIT_BOXES[kind]
    radius = float(((right - left) / (box[1] - box[0]) + (bottom - top) / (box[3] - box[2])) / 2)
    part = solid[top:bottom, left:right]
    best = 0.0
    for scale, dx, dy in nudges:
        size = radius * scale
        x = (right - left) / 2 - size * (box[0] + box[1]) / 2 + dx
        y = (bottom - top) / 2 - size * (box[2] + box[3]) / 2 + dy
        mask = _mask(kind, x + _MARGIN, y + _MARGIN, size, bottom - top + 2 * _MARGIN, right - left + 2 * _MARGIN)
        shared = float((mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] & part).sum())
        best = max(best, shared / (float(mask.sum()) + float(part.sum()) - shared))
    return best


def _mask(kind: str, x: float, y: float, radius: float, height: int, width: int) -> Mask:
    """Which pixels of a frame a shape covers by half or more."""
    across, down = (np.arange(width * _STEPS) + 0.5) / _STEPS, (np.arange(height * _STEPS) + 0.5) / _STEPS
    u, v = np.meshgrid((across - x) / radius, (down - y) / radius)
    fine = _inside(kind, u, v).reshape(height, _STEPS, width, _STEPS)
    covered: Mask = fine.mean(axis=(1, 3)) >= 0.5
    return covered


def _inside(kind: str, u: Floats, v: Floats) -> Mask:
    """Whether points (u to the right, v down) lie in the shape of radius 1."""
    distance = np.hypot(u, v)
    match kind:
        case "circle":
            return distance <= 1
        case "ring":
            return (distance <= 1) & (distance >= 0.55)
        case "square":
            return np.maximum(abs(u), abs(v)) <= 0.85
        case "diamond":
            return abs(u) / 0.75 + abs(v) <= 1
        case "cross":
            return (np.maximum(abs(u), abs(v)) <= 1) & (np.minimum(abs(u), abs(v)) <= 0.34)
        case "triangle":
            return (v <= 0.8) & (abs(u) <= (v + 0.95) / 1.75)
        case "star":
            return distance <= _star_edge(np.arctan2(u, -v))
        case "heart":
            return (v >= _heart_top(abs(u))) & (v <= _heart_bottom(abs(u))) & (abs(u) <= 1)
    raise KeyError(kind)


def _star_edge(angle: Floats) -> Floats:
    """How far a five-pointed star reaches at an angle from straight up: the line from a point (1) to a waist (0.42)."""
    turn = np.mod(angle + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
    waist_x, waist_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    edge: Floats = waist_y / (waist_y * np.cos(turn) + (1 - waist_x) * np.sin(abs(turn)))
    return edge


def _heart_curve() -> tuple[Floats, Floats]:
    """The right half of x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, in units of 16 and downwards."""
    t = np.linspace(0, np.pi, 200)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t) + 2.5) / 16
    return x, y


_HEART_X, _HEART_Y = _heart_curve()
_WIDEST = int(_HEART_X.argmax())


def _heart_top(u: Floats) -> Floats:
    return np.interp(u, _HEART_X[: _WIDEST + 1], _HEART_Y[: _WIDEST + 1])


def _heart_bottom(u: Floats) -> Floats:
    return np.interp(u, _HEART_X[_WIDEST:][::-1], _HEART_Y[_WIDEST:][::-1])


def _unit_box(kind: str) -> tuple[float, float, float, float]:
    axis = np.linspace(-1.2, 1.2, 481)
    u, v = np.meshgrid(axis, axis)
    inside = _inside(kind, u, v)
    return float(u[inside].min()), float(u[inside].max()), float(v[inside].min()), float(v[inside].max())


def _connected(mask: Mask) -> list[Mask]:
    """The parts of a mask that hang together by sides or corners."""
    left, parts = mask.copy(), []
    while left.any():
        part = np.zeros_like(mask)
        start = tuple(int(value) for value in np.argwhere(left)[0])
        queue = deque([start])
        left[start] = False
        while queue:
            row, column = queue.popleft()
            part[row, column] = True
            for r, c in itertools.product(range(max(row - 1, 0), row + 2), range(max(column - 1, 0), column + 2)):
                if r < _SIDE and c < _SIDE and left[r, c]:
                    left[r, c] = False
                    queue.append((r, c))
        parts.append(part)
    return parts


def _shifted_all(mask: Mask) -> Mask:
    """Pixels whose four neighbours are in the mask."""
    padded = np.pad(mask, 1)
    inner: Mask = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inner


def _grown(mask: Mask) -> Mask:
    """The mask and its four neighbours."""
    padded = np.pad(mask, 1)
    grown: Mask = mask | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown


def _nearest(colour: Floats, palette: dict[str, tuple[int, int, int]]) -> tuple[str, float]:
    distances = {name: float(np.linalg.norm(colour - np.array(value))) for name, value in palette.items()}
    name = min(distances, key=lambda key: distances[key])
    return name, distances[name]


def _pixels(image: Image.Image) -> Floats:
    if image.size != (_SIDE, _SIDE):
        raise ValueError(f"an image of the demo world is {_SIDE} x {_SIDE}, not {image.size[0]} x {image.size[1]}")
    return np.asarray(image.convert("RGB"), dtype=np.float64)


_UNIT_BOXES = {kind: _unit_box(kind) for kind in KINDS}
