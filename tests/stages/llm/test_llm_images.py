"""Images of prompts: needed where no slot holds them, given back what was taken, and on the device only while they must be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.contract.errors import StageFailed
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing
from stages.device.arrays import as_array
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.vision.messages import VisionFeatures
from tests.stages.llm.asking import PROMPT, generate, image_of, load, with_image
from tests.stages.llm.driving import Answer, drive, recipe

pytestmark = pytest.mark.models


def test_features_from_shared_memory_may_be_read_only(folder: Path) -> None:
    features = VisionFeatures(np.ones((4, 48), dtype=np.float16)).freeze()
    assert drive(load(folder), [(0, with_image(3, 4))], results={"x": features})[0].error is None


def test_features_in_bfloat16_answer_as_the_same_numbers_in_float32(folder: Path) -> None:
    features = torch.randn(4, 48, generator=torch.Generator().manual_seed(3)).bfloat16()

    def answer(value: torch.Tensor) -> Answer:
        work = with_image(3, 4, max_tokens=6, logprobs=2)
        return drive(load(folder), [(0, work)], results={"x": VisionFeatures(as_array(value))})[0]

    travelled, widened = answer(features), answer(features.float())
    assert travelled.error is None
    assert (travelled.tokens, travelled.text) == (widened.tokens, widened.text)
    assert travelled.logprobs == widened.logprobs
    assert travelled.tokens != answer(torch.zeros(4, 48)).tokens  # the features do count


@pytest.mark.parametrize("shape", [(5, 48), (4, 40), (4,)], ids=["another length", "another width", "no rows"])
def test_features_of_another_model_fail_before_anything_starts(folder: Path, shape: tuple[int, ...]) -> None:
    llm, features = load(folder), VisionFeatures(np.zeros(shape, dtype=np.float32))
    llm.check(with_image(3, 4))
    with pytest.raises(StageFailed, match=r"need \(4, 48\): the vision encoder belongs to another model"):
        llm.prepare(with_image(3, 4), Inputs({"x": features}))


def test_an_image_that_a_slot_holds_is_not_needed_again(folder: Path) -> None:
    llm, results = load(folder), {"x": image_of(1)}
    assert [one.name for one in llm.needs(with_image(3, 4))] == ["x"]
    first = drive(llm, [(0, with_image(3, 4))], results=results)[0]
    assert (first.needed, list(llm.resident_names())) == (["x"], ["x"])
    question = with_image(3, 4, (*PROMPT[:20], 9, 8), max_tokens=9)
    fresh = drive(load(folder), [(0, question)], results=results)[0]
    again = drive(llm, [(0, question)], results={})[0]
    assert again.needed == again.missed == []
    assert again.tokens == fresh.tokens
    assert again.end is not None
    assert again.end.cached_tokens == 20


@pytest.mark.parametrize(
    "work",
    [
        with_image(3, 4, (9, *PROMPT[1:])),
        with_image(4, 4),
        Generate(PROMPT, Sampling(max_tokens=4), (ImageSpan(3, 4, recipe("x")),), salt="another"),
        with_image(3, 4, PROMPT[:7]),
    ],
    ids=["another beginning", "another place", "another salt", "its last token must be computed"],
)
def test_an_image_that_no_slot_holds_there_is_needed(folder: Path, work: Generate) -> None:
    llm = load(folder)
    drive(llm, [(0, with_image(3, 4))], results={"x": image_of(1)})
    assert [one.name for one in llm.needs(work)] == ["x"]


def test_of_two_images_only_the_one_beyond_what_is_held_is_needed_and_each_once(folder: Path) -> None:
    llm = load(folder)
    drive(llm, [(0, with_image(3, 4))], results={"x": image_of(1)})
    spans = (ImageSpan(3, 4, recipe("x")), ImageSpan(8, 4, recipe("y")), ImageSpan(13, 4, recipe("y")))
    work = Generate(PROMPT, Sampling(max_tokens=2), spans)
    assert [one.name for one in llm.needs(work)] == ["y"]


def test_of_an_image_that_is_half_computed_the_rest_is_needed(folder: Path) -> None:
    llm, results = load(folder, chunk=5), {"x": image_of(1)}
    first, second = drive(llm, [(0, with_image(3, 4, max_tokens=9)), (1, with_image(3, 4))], results=results)
    assert second.needed == ["x"]
    assert second.end is not None
    assert second.end.cached_tokens == 5
    assert second.tokens == first.tokens[:4]


def test_a_slot_that_was_taken_meanwhile_is_told_and_the_row_starts_with_what_was_missing(folder: Path) -> None:
    llm, results = load(folder, num_slots=1), {"x": image_of(1)}
    expected = drive(llm, [(0, with_image(3, 4))], results=results)[0]
    work = with_image(3, 4)
    prepared = llm.prepare(work, NO_INPUTS)
    assert not llm.needs(work)
    drive(llm, [(0, generate(PROMPT[5:]))])
    with pytest.raises(InputsMissing) as missing:
        llm.start(work, prepared)
    assert [one.name for one in missing.value.recipes] == ["x"]
    assert llm.can_start(work)
    assert not llm.resident_names()
    told = drive(llm, [(0, generate(PROMPT[5:], 12)), (1, work)], results=results)[1]
    assert told.tokens == expected.tokens


def test_who_arrived_while_the_slot_held_its_image_gets_it_anew_when_its_turn_comes_too_late(folder: Path) -> None:
    llm, results = load(folder, num_slots=1), {"x": image_of(1)}
    expected = drive(llm, [(0, with_image(3, 4))], results=results)[0]
    other, late = drive(llm, [(0, generate(PROMPT[5:])), (0, with_image(3, 4))], results=results)
    assert other.error is None
    assert (late.needed, late.missed) == ([], ["x"])
    assert late.tokens == expected.tokens


@pytest.mark.parametrize("slots", [1, 2])
def test_a_row_over_a_covered_image_makes_way_and_goes_on_the_same(folder: Path, slots: int) -> None:
    """With two slots its own still holds the image when it comes back; with one it does not."""
    llm, results = load(folder, num_slots=slots), {"x": image_of(1)}
    expected = drive(llm, [(0, with_image(3, 4, max_tokens=15))], results=results)[0]
    again, other = drive(
        llm,
        [(0, with_image(3, 4, max_tokens=15)), (1, generate(PROMPT[5:], 6))],
        preempt=lambda step, index: index == 0 and step == 5,
        results=results,
    )
    assert other.error is None
    assert (again.needed, again.missed) == ([], ["x"] if slots == 1 else [])
    assert again.tokens == expected.tokens
    assert again.end is not None
    assert again.end.completion_tokens == 15


def test_what_is_prepared_lies_on_the_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes nothing: only `start` and `resume` reach for it."""
    llm, work = load(folder), with_image(3, 4)
    monkeypatch.setattr(llm._forward, "_device", torch.device("meta"))
    prepared = llm.prepare(work, Inputs({"x": image_of(1)}))
    row = llm.start(work, prepared)
    suspended = llm.suspend(row)
    rows = [row, llm.resume(work, prepared, suspended)]
    assert [one.features.device.type for row in rows for one in row.images] == ["meta", "meta"]
    assert [one.features is not None and one.features.device.type for one in prepared.images] == ["cpu"]
    for row in rows:
        llm.finish(row)


def test_a_row_that_runs_out_of_memory_as_it_starts_has_taken_no_slot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, work = load(folder, num_slots=1), with_image(3, 4)
    prepared = llm.prepare(work, Inputs({"x": image_of(1)}))

    def ran_out(*args: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("stages.llm.llm.PlacedImage", ran_out)
        with pytest.raises(torch.OutOfMemoryError):
            llm.start(work, prepared)
    assert llm.can_start(work)
    llm.finish(llm.start(work, prepared))
