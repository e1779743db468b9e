"""What states of paintings are called: whatever changes what is painted changes the name, and nothing else does."""

from dataclasses import fields, replace
from typing import Any

import pytest

from stages.contract.recipe import Recipe
from stages.diffusion.messages import Denoise, EncodePrompt, EncodeToLatents
from stages.diffusion.step_state import UNNAMED, state_names


def prompt(name: str) -> Recipe[Any]:
    return Recipe(name, "m.text_encoder", EncodePrompt("a boat"))


def image(name: str) -> Recipe[Any]:
    return Recipe(name, "m.vae_encoder", EncodeToLatents(b"", 64, 64, 4096))


PAINTED = Denoise(
    prompt=prompt("p"),
    negative=prompt("n"),
    width=64,
    height=32,
    steps=20,
    guidance_scale=3.0,
    seed=5,
    sampler="euler",
    preview_steps=(5,),
    init=image("i"),
    strength=0.5,
    keep_steps=(10,),
    salt="tenant",
    trunk=prompt("t"),
    trunk_steps=4,
)
OTHERS: dict[str, list[Any]] = {
    "prompt": [prompt("q"), prompt("n")],
    "negative": [prompt("m"), prompt("p"), None],
    "width": [32, 128],
    "height": [64, 128],
    "steps": [10, 21, 40],
    "guidance_scale": [3.5, 1.0, 0.0],
    "seed": [6, 0, -5, 2**63],
    "init": [image("j"), None],
    "strength": [0.6, 1.0],
    "masked": [True],
    "salt": ["", "other"],
    "trunk": [prompt("u"), prompt("p"), None],
    "trunk_steps": [3, 5],
}
RENAMED = [(field, value) for field, values in OTHERS.items() for value in values]
IN_ANOTHER_WAY = {"sampler"}  # by what it is painted with: None may mean the same


def test_every_field_of_a_request_to_paint_is_in_the_name_or_known_to_change_nothing() -> None:
    assert OTHERS.keys() | UNNAMED | IN_ANOTHER_WAY == {field.name for field in fields(Denoise)}


@pytest.mark.parametrize(("field", "value"), RENAMED, ids=[f"{field}-{index}" for index, (field, _) in enumerate(RENAMED)])
def test_what_changes_what_is_painted_changes_the_name(field: str, value: Any) -> None:
    assert state_names(replace(PAINTED, **{field: value}), "euler")[10] != state_names(PAINTED, "euler")[10]


def test_no_two_paintings_share_a_name() -> None:
    others = [replace(PAINTED, **{field: value}) for field, value in RENAMED]
    names = {state_names(painted, sampler)[10] for painted in (PAINTED, *others) for sampler in ("euler", "ddim")}
    assert len(names) == 2 * (len(others) + 1)


@pytest.mark.parametrize(("field", "value"), [("preview_steps", ()), ("preview_steps", (1, 2)), ("keep_steps", (3, 10))])
def test_what_changes_nothing_of_it_does_not(field: str, value: Any) -> None:
    assert state_names(replace(PAINTED, **{field: value}), "euler")[10] == state_names(PAINTED, "euler")[10]


def test_the_sampler_that_is_painted_with_counts_and_not_how_it_was_asked_for() -> None:
    assert state_names(replace(PAINTED, sampler=None), "euler") == state_names(PAINTED, "euler")


def test_there_is_a_name_for_each_step_that_the_request_has_in_order() -> None:
    names = state_names(replace(PAINTED, keep_steps=(20, 5, 10, 5, 0, -1, 21)), "euler")
    assert list(names) == [5, 10, 20]
    assert len(set(names.values())) == 3
    assert all(len(name) == 64 for name in names.values())


def test_what_paintings_share_has_one_name_whatever_they_become() -> None:
    painted = replace(PAINTED, keep_steps=(2, 4, 5))
    names = state_names(painted, "euler")
    other = state_names(replace(painted, prompt=prompt("q")), "euler")
    assert [names[step] == other[step] for step in (2, 4, 5)] == [True, True, False]
    shared = state_names(replace(painted, prompt=prompt("t"), trunk=None, trunk_steps=0), "euler")
    assert [names[step] == shared[step] for step in (2, 4, 5)] == [True, True, False]


def test_a_request_that_keeps_nothing_has_no_names() -> None:
    assert state_names(replace(PAINTED, keep_steps=()), "euler") == {}
