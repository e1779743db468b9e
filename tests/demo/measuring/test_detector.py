"""The detector sees what was drawn, and says no to what is no proper image."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from demo.drawing import draw
from demo.measuring.detector import background_of, blobs, describe
from demo.world import BACKGROUNDS, COLOURS, KINDS, Facts, Place, Relation, Scene, Thing, compose, place, random_facts

RED_CIRCLE = Scene(Facts("gray", (Thing("red", "circle"),)), (Place(32, 32, 14),))


def test_random_scenes_are_described_with_their_facts() -> None:
    rng = random.Random(0)
    for index in range(60):
        facts = random_facts(rng)
        scene = place(facts, rng) if index % 2 else compose(facts, rng)
        assert describe(draw(scene)) == facts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [9.0, 13.0, 17.0])
def test_every_shape_is_told_from_the_others_at_every_size(kind: str, radius: float) -> None:
    scene = Scene(Facts("cyan", (Thing("purple", kind),)), (Place(31.3, 33.6, radius),))
    assert describe(draw(scene)) == scene.facts


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_told_on_every_background(colour: str, background: str) -> None:
    scene = Scene(Facts(background, (Thing(colour, "star"),)), (Place(30, 30, 13),))
    assert describe(draw(scene)) == scene.facts


def test_a_little_noise_and_blur_do_not_matter() -> None:
    noise = np.random.default_rng(0).normal(0, 6, (64, 64, 3))
    noisy = np.clip(np.asarray(draw(RED_CIRCLE), dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    assert describe(Image.fromarray(noisy)) == RED_CIRCLE.facts
    assert describe(draw(RED_CIRCLE).resize((56, 56)).resize((64, 64))) == RED_CIRCLE.facts


def test_the_wrong_colour_shape_or_relation_is_seen() -> None:
    things = (Thing("red", "circle"), Thing("blue", "square"))
    scene = Scene(Facts("pink", things, Relation.LEFT), (Place(16, 32, 11), Place(48, 32, 11)))
    seen = describe(draw(scene))
    assert seen == scene.facts
    assert seen != Facts("pink", (things[1], things[0]), Relation.LEFT)
    assert seen != Facts("pink", things, Relation.ABOVE)
    assert seen != Facts("pink", (Thing("orange", "circle"), things[1]), Relation.LEFT)
    assert seen != Facts("pink", (Thing("red", "ring"), things[1]), Relation.LEFT)


def test_an_empty_frame_is_no_proper_image() -> None:
    assert describe(Image.new("RGB", (64, 64), BACKGROUNDS["gray"])) is None


def test_a_background_of_another_colour_is_no_proper_image() -> None:
    image = Image.new("RGB", (64, 64), (90, 20, 90))
    assert background_of(image) is None
    assert describe(image) is None


def test_three_shapes_are_too_many() -> None:
    image = draw(Scene(Facts("gray", (Thing("red", "circle"),)), (Place(16, 16, 10),)))
    pencil = ImageDraw.Draw(image)
    pencil.rectangle((40, 8, 56, 24), fill=COLOURS["blue"])
    pencil.rectangle((40, 40, 56, 56), fill=COLOURS["green"])
    assert describe(image) is None


def test_a_shape_of_two_colours_is_no_proper_shape() -> None:
    image = draw(RED_CIRCLE)
    ImageDraw.Draw(image).rectangle((32, 0, 45, 63), fill=COLOURS["blue"])
    assert describe(image) is None


@pytest.mark.parametrize("box", [(10, 28, 54, 36), (8, 8, 56, 20)])
def test_a_bar_is_no_shape_of_this_world(box: tuple[int, int, int, int]) -> None:
    image = Image.new("RGB", (64, 64), BACKGROUNDS["beige"])
    ImageDraw.Draw(image).rectangle(box, fill=COLOURS["black"])
    assert describe(image) is None


def test_half_a_star_is_no_star() -> None:
    image = draw(Scene(Facts("gray", (Thing("red", "star"),)), (Place(32, 32, 16),)))
    ImageDraw.Draw(image).rectangle((32, 0, 63, 63), fill=BACKGROUNDS["gray"])
    seen = describe(image)
    assert seen is None or seen.things[0].kind != "star"


def test_confetti_is_no_proper_image() -> None:
    image = draw(RED_CIRCLE)
    pencil = ImageDraw.Draw(image)
    for index in range(8):
        pencil.rectangle((2 + 7 * index, 2, 4 + 7 * index, 5), fill=COLOURS["black"])
    assert blobs(image) is None
    assert describe(image) is None


def test_pure_noise_is_no_proper_image() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert describe(Image.fromarray(noise)) is None


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        describe(Image.new("RGB", (32, 32)))
