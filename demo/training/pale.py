"""White shapes differ little from a pale ground, so a loss over all pixels hardly sees them: they are drawn and weighed more.

Decides how often a training scene has one, and how much its place counts. Knows no models.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from demo.world import SIZE, Facts, Scene, random_scene

SHARE = 0.4  # of the scenes, redrawn until one has a white shape
_WEIGHT = 5.0
_RIM = 2.0  # pixels around a shape that count with it


def training_facts(rng: random.Random) -> Facts:
    """Facts from the training side of the split, those with a white shape more often than by lot."""
    pale = rng.random() < SHARE
    while True:
        facts = random_scene(rng, held_out=False).facts
        if not pale or has_white(facts):
            return facts


def has_white(facts: Facts) -> bool:
    """Whether one of the things is white."""
    return any(thing.colour == "white" for thing in facts.things)


def weights(scenes: list[Scene], grid: int) -> Tensor:
    """[scenes, 1, grid, grid]: 1, and `_WEIGHT` where a white shape is; each scene's mean is 1."""
    middles = (torch.arange(grid) + 0.5) * (SIZE / grid)
    found = torch.ones(len(scenes), 1, grid, grid)
    for index, scene in enumerate(scenes):
        for thing, place in zip(scene.facts.things, scene.places, strict=True):
            if thing.colour == "white":
                away = torch.hypot(middles[None, :] - place.x, middles[:, None] - place.y)
                found[index, 0][away < place.radius + _RIM] = _WEIGHT
    return found / found.mean(dim=(1, 2, 3), keepdim=True)
