"""Wordings: the many sentences that state the facts of a scene.

Decides how facts may be worded (relation mirrored, colour before or after the noun, background left out, upper and lower case)
and which wordings are held out of training. Knows no pixels and no models.
"""

from __future__ import annotations

import random

from demo.world import Facts, Relation, Thing, hash_share, with_article

_OPENINGS = (
    "", "", "", "", "there is ", "draw ", "paint ", "a picture of ", "picture of ", "an image of ", "please draw ", "show me ",
    "i want ", "a drawing of ", "generate ", "make a picture of ",
)  # fmt: skip
_MIRRORED = {
    Relation.LEFT: ("to the right of", "right of", "on the right of"),
    Relation.ABOVE: ("below", "under", "beneath", "underneath"),
}
_STRAIGHT = {
    Relation.LEFT: ("to the left of", "to the left of", "left of", "on the left of"),
    Relation.ABOVE: ("above", "above", "over", "on top of"),
}
_GROUNDS = (" on a {} background", " on a {} background", " on {}", " with a {} background", ", {} background")


def wording(facts: Facts, rng: random.Random, *, held_out: bool = False, with_background: bool | None = None) -> str:
    """One wording of the facts by lot, from the asked side of the split. The background is left out one time in eight."""
    while True:
        text = _any_wording(facts, rng, with_background)
        if is_held_out_wording(text) == held_out:
            return text


def is_held_out_wording(text: str) -> bool:
    """Whether this sentence is kept out of every training set; upper and lower case don't matter."""
    return hash_share("wording: " + text) == 0


def states_background(text: str) -> bool:
    """Whether a wording says what the background is."""
    return any(f" {name}" in f" {text.lower()}" for name in ("gray", "cyan", "pink", "beige"))


def _any_wording(facts: Facts, rng: random.Random, with_background: bool | None) -> str:
    if with_background is None:
        with_background = rng.random() < 0.875
    text = rng.choice(_OPENINGS) + _arrangement(facts, rng)
    if with_background:
        text += rng.choice(_GROUNDS).format(facts.background)
    return _cased(text, rng)


def _arrangement(facts: Facts, rng: random.Random) -> str:
    first = _noun(facts.things[0], rng)
    if facts.relation is None:
        return first
    second = _noun(facts.things[1], rng)
    if rng.random() < 0.35:
        return f"{second} {rng.choice(_MIRRORED[facts.relation])} {first}"
    return f"{first} {rng.choice(_STRAIGHT[facts.relation])} {second}"


def _noun(thing: Thing, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.85:
        return with_article(f"{thing.colour} {thing.kind}")
    if chance < 0.92:
        return f"a {thing.kind} in {thing.colour}"
    return f"a {thing.kind} that is {thing.colour}"


def _cased(text: str, rng: random.Random) -> str:
    chance = rng.random()
    if chance < 0.6:
        return text
    if chance < 0.9:
        return text[0].upper() + text[1:] + rng.choice((".", ""))
    return text.upper()
