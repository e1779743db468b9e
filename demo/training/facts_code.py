"""Facts as numbers and as fixed slots of words: the targets of the auxiliary heads used in training.

Decides which classes a fact has and which sixteen words a scene is spelled with. Knows no pixels and no models.
"""

from __future__ import annotations

from demo.world import BACKGROUNDS, COLOURS, KINDS, Facts, Relation, with_article

_COLOUR_NAMES, _BACKGROUND_NAMES = tuple(COLOURS), tuple(BACKGROUNDS)
NONE = 8
FACT_SIZES = (len(COLOURS), len(KINDS), 3, len(COLOURS) + 1, len(KINDS) + 1, len(BACKGROUNDS))
NUM_SLOTS = 16
NO_BACKGROUND = -100  # the class torch's cross entropy ignores

_BETWEEN = {
    Relation.LEFT: ("to", "the", "left", "of"),
    Relation.ABOVE: ("that", "is", "just", "above"),
}
_ALONE = ("alone", "by", "itself", "in", "the", "whole", "picture")
SLOT_WORDS = (
    *sorted({*COLOURS, *KINDS, *BACKGROUNDS, *_ALONE, *_BETWEEN[Relation.LEFT], *_BETWEEN[Relation.ABOVE]}),
    *("a", "an", "one", "two", ":", "on", "background"),
)
_SLOT_INDEX = {word: index for index, word in enumerate(SLOT_WORDS)}


def fact_classes(facts: Facts) -> tuple[int, ...]:
    """The class of each fact, in the order of `FACT_SIZES`: first thing, relation, second thing, background."""
    first = facts.things[0]
    head = (_COLOUR_NAMES.index(first.colour), KINDS.index(first.kind))
    tail = (NONE, NONE)
    if facts.relation:
        tail = (_COLOUR_NAMES.index(facts.things[1].colour), KINDS.index(facts.things[1].kind))
    return (*head, _relation_class(facts), *tail, _BACKGROUND_NAMES.index(facts.background))


def slot_words(facts: Facts) -> tuple[str, ...]:
    """Sixteen words that spell the scene, each kind of fact always in the same slot."""
    first = facts.things[0]
    article = with_article(str(first)).split()[0]
    ground = ("on", "a", facts.background, "background")
    if facts.relation is None:
        return ("one", ":", article, first.colour, first.kind, *_ALONE, *ground)
    second = with_article(str(facts.things[1])).split()
    return ("two", ":", article, first.colour, first.kind, *_BETWEEN[facts.relation], *second, *ground)


def slot_classes(facts: Facts) -> tuple[int, ...]:
    """The index in `SLOT_WORDS` of each slot's word."""
    return tuple(_SLOT_INDEX[word] for word in slot_words(facts))


def _relation_class(facts: Facts) -> int:
    return 0 if facts.relation is None else 1 + list(Relation).index(facts.relation)
