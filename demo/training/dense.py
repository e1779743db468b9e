"""A target for every patch: which thing it touches, and where that thing's centre is from there.

Decides that target and its loss; it teaches the vision tower's middle to align what it sees with a shape's centre. The head
that predicts it is thrown away after training. Knows no model.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from demo.world import COLOURS, KINDS, Scene

_GRID, _PATCH = 4, 16
_NUM_KINDS, _NUM_COLOURS = len(KINDS) + 1, len(COLOURS) + 1
PLACE_WIDTH = _NUM_KINDS + _NUM_COLOURS + 3

Target = tuple[int, int, float, float, float]


def place_loss(predicted: Tensor, scenes: list[Scene]) -> Tensor:
    """Loss of [batch, 16, PLACE_WIDTH]: kind and colour of the touched thing, and the way to its centre and its radius."""
    target = torch.tensor([_targets(scene) for scene in scenes], device=predicted.device)
    kind, colour, geometry = torch.split(predicted, [_NUM_KINDS, _NUM_COLOURS, 3], dim=2)
    kinds, colours = target[..., 0].long(), target[..., 1].long()
    named = F.cross_entropy(kind.flatten(0, 1), kinds.flatten()) + F.cross_entropy(colour.flatten(0, 1), colours.flatten())
    touched = kinds < len(KINDS)
    return named + 3 * F.smooth_l1_loss(geometry[touched], target[..., 2:][touched], beta=0.1)


def _targets(scene: Scene) -> list[Target]:
    return [_target(scene, (column + 0.5) * _PATCH, (row + 0.5) * _PATCH) for row in range(_GRID) for column in range(_GRID)]


def _target(scene: Scene, x: float, y: float) -> Target:
    best, closest = (len(KINDS), len(COLOURS), 0.0, 0.0, 0.0), math.inf
    for thing, place in zip(scene.facts.things, scene.places, strict=True):
        right, down = place.x - x, place.y - y
        reach = place.radius + _PATCH / 2
        if max(abs(right), abs(down)) < reach and math.hypot(right, down) < closest:
            closest = math.hypot(right, down)
            colour = list(COLOURS).index(thing.colour)
            best = (KINDS.index(thing.kind), colour, right / 16, down / 16, place.radius / 16)
    return best
