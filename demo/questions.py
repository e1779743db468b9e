"""Questions about a scene, with their true answers.

Decides which questions have one right answer and how that answer is worded. Knows no pixels and no models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from demo.world import DESCRIBE, Facts, Relation, with_article


class Topic(StrEnum):
    """What a question asks for."""

    DESCRIPTION = "description"
    COLOUR = "colour"
    SHAPE = "shape"
    COUNT = "count"
    POSITION = "position"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the only answer that counts as right."""

    topic: Topic
    text: str
    answer: str


_OPPOSITE = {Relation.LEFT: "to the right of", Relation.ABOVE: "below"}
_COUNTS = {1: "one", 2: "two"}


def description(facts: Facts) -> Question:
    """The canonical question: its answer is the canonical sentence."""
    return Question(Topic.DESCRIPTION, DESCRIBE, facts.canonical())


def questions(facts: Facts) -> list[Question]:
    """Every question, other than for the description, that these facts answer without doubt."""
    return [*_about_picture(facts), *_about_things(facts), *_about_positions(facts)]


def some_question(facts: Facts, rng: random.Random) -> Question:
    """A question by lot; each topic is as likely as another."""
    found = questions(facts)
    topic = rng.choice(sorted({question.topic for question in found}))
    return rng.choice([question for question in found if question.topic == topic])


def _about_picture(facts: Facts) -> list[Question]:
    count, ground = _COUNTS[len(facts.things)], facts.background
    return [
        Question(Topic.COUNT, "How many shapes are there?", count),
        Question(Topic.COUNT, "How many shapes are in the picture?", count),
        Question(Topic.BACKGROUND, "What colour is the background?", ground),
        Question(Topic.BACKGROUND, "What is the background?", ground),
    ]


def _about_things(facts: Facts) -> list[Question]:
    found: list[Question] = []
    for thing in facts.things:
        if sum(other.kind == thing.kind for other in facts.things) == 1:
            found.append(Question(Topic.COLOUR, f"What colour is the {thing.kind}?", thing.colour))
        if sum(other.colour == thing.colour for other in facts.things) == 1:
            found.append(Question(Topic.SHAPE, f"What shape is {thing.colour}?", thing.kind))
            found.append(Question(Topic.SHAPE, f"What is the {thing.colour} shape?", thing.kind))
    return found


def _about_positions(facts: Facts) -> list[Question]:
    if facts.relation is None:
        return []
    first, second = facts.things
    return [
        Question(Topic.POSITION, f"Where is the {first}?", f"{facts.relation} the {second}"),
        Question(Topic.POSITION, f"Where is the {second}?", f"{_OPPOSITE[facts.relation]} the {first}"),
        Question(Topic.POSITION, f"What is {facts.relation} the {second}?", with_article(str(first))),
        Question(Topic.POSITION, f"What is {_OPPOSITE[facts.relation]} the {first}?", with_article(str(second))),
    ]
