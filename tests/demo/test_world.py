"""The world is pure, and its split is the same everywhere."""

import random

import pytest

from demo.world import SIZE, Facts, Relation, Scene, Thing, compose, is_held_out, place, random_facts, random_scene


def scenes(count: int) -> list[Scene]:
    rng = random.Random(0)
    return [random_scene(rng, held_out=index % 2 == 0) for index in range(count)]


def test_the_same_seed_gives_the_same_scenes() -> None:
    assert scenes(20) == scenes(20)


def test_the_canonical_sentence_says_colour_shape_relation_and_background() -> None:
    red, blue = Thing("red", "circle"), Thing("blue", "square")
    assert Facts("gray", (red,)).canonical() == "a red circle on a gray background"
    left = Facts("pink", (red, blue), Relation.LEFT)
    assert left.canonical() == "a red circle to the left of a blue square on a pink background"
    above = Facts("beige", (Thing("green", "star"), Thing("white", "heart")), Relation.ABOVE)
    assert above.canonical() == "a green star above a white heart on a beige background"
    assert Facts("cyan", (Thing("orange", "ring"),)).canonical() == "an orange ring on a cyan background"


def test_about_one_in_ten_facts_is_held_out_whatever_the_places() -> None:
    rng = random.Random(1)
    facts = [random_facts(rng) for _ in range(3000)]
    share = sum(map(is_held_out, facts)) / len(facts)
    assert 0.07 < share < 0.13
    assert all(is_held_out(place(fact, rng)) == is_held_out(fact) for fact in facts[:200])


def test_a_scene_is_drawn_from_the_side_of_the_split_that_was_asked_for() -> None:
    assert [is_held_out(scene) for scene in scenes(40)] == [index % 2 == 0 for index in range(40)]


def test_the_two_things_of_a_scene_differ() -> None:
    assert all(len(set(scene.facts.things)) == len(scene.facts.things) for scene in scenes(300))


@pytest.mark.parametrize("put", [place, compose])
def test_shapes_are_inside_the_frame_apart_and_in_their_relation(put: object) -> None:
    rng = random.Random(2)
    for _ in range(1000):
        scene = (place if put is place else compose)(random_facts(rng), rng)
        for spot in scene.places:
            assert spot.radius <= min(spot.x, spot.y, SIZE - spot.x, SIZE - spot.y)
        if scene.facts.relation is None:
            continue
        first, second = scene.places
        right, down = second.x - first.x, second.y - first.y
        ahead, aside = (right, down) if scene.facts.relation is Relation.LEFT else (down, right)
        assert ahead > first.radius + second.radius + 1
        assert ahead > 2 * abs(aside)
