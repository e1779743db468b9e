"""Wordings say the same facts in many ways, questions have one right answer."""

import random

from demo.questions import Topic, description, questions, some_question
from demo.sentences import is_held_out_wording, states_background, wording
from demo.training.facts_code import FACT_SIZES, NUM_SLOTS, SLOT_WORDS, fact_classes, slot_classes, slot_words
from demo.world import Facts, Relation, Thing, random_facts

SIDE_BY_SIDE = Facts("pink", (Thing("red", "circle"), Thing("blue", "square")), Relation.LEFT)


def test_a_wording_names_every_thing_in_an_order_that_fits_the_relation() -> None:
    rng = random.Random(0)
    for _ in range(500):
        text = wording(SIDE_BY_SIDE, rng).lower()
        assert {"red", "circle", "blue", "square"} <= set(text.replace(",", " ").replace(".", " ").split())
        mirrored = "right" in text
        assert (text.index("circle") > text.index("square")) == mirrored


def test_wordings_are_many_and_fall_on_the_side_that_was_asked_for() -> None:
    rng = random.Random(1)
    for side in (True, False):
        texts = {wording(SIDE_BY_SIDE, rng, held_out=side) for _ in range(300)}
        assert len(texts) > 50
        assert {is_held_out_wording(text) for text in texts} == {side}


def test_case_does_not_change_the_side_of_a_wording() -> None:
    text = wording(SIDE_BY_SIDE, random.Random(2))
    assert is_held_out_wording(text.upper()) == is_held_out_wording(text.lower())


def test_a_background_may_be_left_out_and_it_shows() -> None:
    rng = random.Random(3)
    assert states_background(wording(SIDE_BY_SIDE, rng, with_background=True))
    assert not states_background(wording(SIDE_BY_SIDE, rng, with_background=False))


def test_the_description_is_the_canonical_sentence() -> None:
    assert description(SIDE_BY_SIDE).answer == "a red circle to the left of a blue square on a pink background"


def test_questions_have_the_true_answer() -> None:
    found = {question.text: question.answer for question in questions(SIDE_BY_SIDE)}
    assert found["What colour is the circle?"] == "red"
    assert found["What shape is blue?"] == "square"
    assert found["How many shapes are there?"] == "two"
    assert found["Where is the blue square?"] == "to the right of the red circle"
    assert found["What is to the left of the blue square?"] == "a red circle"
    assert found["What colour is the background?"] == "pink"


def test_a_question_with_two_answers_is_never_asked() -> None:
    alike = Facts("gray", (Thing("red", "circle"), Thing("blue", "circle")), Relation.ABOVE)
    assert "What colour is the circle?" not in {question.text for question in questions(alike)}


def test_every_topic_comes_up() -> None:
    rng = random.Random(4)
    topics = {some_question(random_facts(rng), rng).topic for _ in range(300)}
    assert topics == set(Topic) - {Topic.DESCRIPTION}


def test_facts_become_classes_within_their_sizes_and_sixteen_known_words() -> None:
    rng = random.Random(5)
    for _ in range(300):
        facts = random_facts(rng)
        assert all(0 <= value < size for value, size in zip(fact_classes(facts), FACT_SIZES, strict=True))
        assert len(slot_words(facts)) == NUM_SLOTS
        assert [SLOT_WORDS[index] for index in slot_classes(facts)] == list(slot_words(facts))
