"""Prompts that begin alike and come at once: their beginning is computed once, and nobody hangs on who doesn't go on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stages.contract.errors import StageFailed
from stages.contract.recipe import NO_INPUTS
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.settings import LlmSettings
from stages.vision.messages import VisionFeatures
from tests.stages.llm.asking import generate, image_of
from tests.stages.llm.driving import Answer, drive, recipe
from tests.stages.llm.library.oracle import load as load_with

pytestmark = pytest.mark.models

PAGE, CHUNK = 8, 16
SHARED = tuple(range(10, 74))
"""Eight pages, in four chunks."""
ENDS = ((100, 101, 102), (110,), (120, 121, 122, 123, 124))


def load(folder: Path, num_slots: int = 4) -> Llm:
    return load_with(folder, LlmSettings(num_slots, 192, CHUNK, PAGE, "auto"))


def alone(folder: Path, works: Sequence[Generate]) -> list[list[int]]:
    return [drive(load(folder), [(0, work)])[0].tokens for work in works]


def cached(answers: Sequence[Answer]) -> list[int]:
    assert all(answer.error is None for answer in answers)
    return [answer.end.cached_tokens for answer in answers if answer.end is not None]


def test_of_three_that_begin_alike_one_computes_the_beginning(folder: Path) -> None:
    works = [generate((*SHARED, *end), 6) for end in ENDS]
    llm = load(folder)
    together = drive(llm, [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, len(SHARED), len(SHARED)]
    assert together[2].steps[0] <= 5  # four chunks, and its own end; each for itself takes thirteen
    llm._table.check_integrity()
    assert llm._table.num_free == 4


def test_who_comes_in_the_middle_waits_for_the_rest_of_it(folder: Path) -> None:
    works = [generate((*SHARED, *end), 6) for end in ENDS]
    together = drive(load(folder), [(0, works[0]), (2, works[1]), (3, works[2])])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, len(SHARED), len(SHARED)]


def test_the_same_prompt_twice_leaves_the_second_its_last_tokens(folder: Path) -> None:
    works = [generate(SHARED, 4), generate(SHARED, 4)]
    together = drive(load(folder), [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, len(SHARED) - PAGE]


def test_a_longer_beginning_is_had_of_who_has_it_from_another(folder: Path) -> None:
    longer = (*SHARED, *range(200, 232))
    works = [generate((*SHARED, 100), 4), generate((*longer, 110), 4), generate((*longer, 120), 4)]
    together = drive(load(folder), [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, len(SHARED), len(longer)]


def test_a_page_is_sooner_computed_than_waited_for(folder: Path) -> None:
    works = [generate((*SHARED[:PAGE], *range(base, base + 60)), 4) for base in (100, 200)]
    together = drive(load(folder), [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, 0]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_who_was_waited_for_leaves_and_the_others_wait_for_the_first_of_them(folder: Path, step: int) -> None:
    works = [generate((*SHARED, *end), 6) for end in ENDS]
    _, *others = drive(load(folder), [(0, work) for work in works], cancel=lambda at, index: index == 0 and at == step)
    assert [answer.tokens for answer in others] == alone(folder, works)[1:]
    assert cached(others) == [0, len(SHARED)]  # half a prompt of who left is not trusted


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("which", [0, 1])
def test_whoever_makes_way_meanwhile_goes_on_later(folder: Path, which: int, step: int) -> None:
    works = [generate((*SHARED, *end), 6) for end in ENDS]
    together = drive(load(folder, 3), [(0, work) for work in works], preempt=lambda at, index: index == which and at == step)
    assert [answer.tokens for answer in together] == alone(folder, works)


def test_who_is_waited_for_and_is_not_in_a_step_holds_nobody_up(folder: Path) -> None:
    llm, works = load(folder), [generate((*SHARED, *end), 6) for end in ENDS[:2]]
    rows = [llm.start(work, llm.prepare(work, NO_INPUTS)) for work in works]
    llm.step(rows[1:])
    assert [row.contents.num_computed for row in rows] == [0, CHUNK]


def test_a_step_adds_at_most_what_its_rows_said(folder: Path) -> None:
    """Where memory runs out, that is what is halved."""
    llm, works = load(folder), [generate((*SHARED, *end), 6) for end in ENDS]
    rows = [llm.start(work, llm.prepare(work, NO_INPUTS)) for work in works]
    assert [row.num_own for row in rows] == [len(SHARED) + len(ENDS[0]), len(ENDS[1]), len(ENDS[2])]
    while not all(row.num_generated for row in rows):
        said, before = [llm.cost(row) for row in rows], [row.num_waiting for row in rows]
        done = llm.step(rows)
        assert all(one.work is None or one.work <= most for one, most in zip(done, said, strict=True))
        assert all(row.num_waiting <= waiting for row, waiting in zip(rows, before, strict=True))


def test_who_ends_with_its_prompt_has_left_it_to_who_waited(folder: Path) -> None:
    """Its slot is given away before the next step."""
    llm = load(folder, num_slots=2)
    works = [generate((*SHARED, *ENDS[0]), 1), generate((*SHARED, *ENDS[1]), 4), generate(tuple(range(300, 340)), 4)]
    together = drive(llm, [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, len(SHARED), 0]


def test_of_who_waited_the_one_that_waited_for_most_goes_on(folder: Path) -> None:
    works = [
        generate((*SHARED, 100), 4),
        generate((*SHARED[: 2 * PAGE], 110), 4),
        generate((*SHARED, 120), 4),
        generate((*SHARED, 130), 4),
    ]
    llm = load(folder)
    leader, *rows = [llm.start(work, llm.prepare(work, NO_INPUTS)) for work in works]
    llm.step(rows)
    assert [row.contents.num_computed for row in rows] == [CHUNK, CHUNK, 0]
    while not all(row.num_generated for row in rows):
        llm.step(rows)
    assert [row.num_cached for row in rows] == [2 * PAGE, 0, len(SHARED)]
    assert leader.contents.num_computed == 0


def test_nobody_waits_for_what_is_computed_in_small_pieces(folder: Path) -> None:
    works = [generate((*SHARED, *ENDS[0]), 4, prompt_logprobs=1), generate((*SHARED, *ENDS[1]), 4)]
    together = drive(load(folder), [(0, work) for work in works])
    assert cached(together) == [0, 0]


def test_what_was_computed_before_it_made_way_is_not_said_to_be_cached(folder: Path) -> None:
    works = [generate((*SHARED, *end), 6) for end in ENDS[:2]]
    together = drive(load(folder, 2), [(0, work) for work in works], preempt=lambda at, index: index == 0 and at == 2)
    assert cached(together)[0] == 0


def test_a_step_that_fails_copies_nothing_and_is_made_up_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm, works = load(folder), [generate((*SHARED, *end), 6) for end in ENDS]
    rows = [llm.start(work, llm.prepare(work, NO_INPUTS)) for work in works]
    for _ in range(3):
        llm.step(rows)
    with monkeypatch.context() as broken:
        broken.setattr(llm._forward, "run", _runs_out)
        with pytest.raises(MemoryError):
            llm.step(rows)
    assert [row.contents.num_computed for row in rows] == [3 * CHUNK, 0, 0]
    while not all(row.num_generated for row in rows):
        llm.step(rows)
    assert [row.num_cached for row in rows] == [0, len(SHARED), len(SHARED)]


def _runs_out(*_: object, **__: object) -> None:
    raise MemoryError


def test_tenants_wait_for_their_own(folder: Path) -> None:
    works = [generate((*SHARED, *end), 4, salt=salt) for end, salt in zip(ENDS, ("a", "b", "a"), strict=True)]
    together = drive(load(folder), [(0, work) for work in works])
    assert [answer.tokens for answer in together] == alone(folder, works)
    assert cached(together) == [0, 0, len(SHARED)]


def test_whose_prompt_is_to_be_scored_computes_all_of_it(folder: Path) -> None:
    works = [generate((*SHARED, *ENDS[0]), 4), generate((*SHARED, *ENDS[1]), 4, prompt_logprobs=1)]
    scored = drive(load(folder), [(0, works[1])])[0]
    together = drive(load(folder), [(0, work) for work in works])
    assert together[1].tokens == scored.tokens
    assert len(together[1].of_prompt) == len(scored.of_prompt)
    assert cached(together) == [0, 0]


def about(image: str, end: tuple[int, ...]) -> Generate:
    sampling = Sampling(max_tokens=4, temperature=0.0, logit_bias={2: -100.0})
    return Generate((*SHARED, *end), sampling, (ImageSpan(20, 4, recipe(image)),))


def test_images_are_part_of_what_is_shared(folder: Path) -> None:
    works, results = [about("x", ENDS[0]), about("x", ENDS[1]), about("y", ENDS[2])], {"x": image_of(1), "y": image_of(2)}
    each = [drive(load(folder), [(0, work)], results=results)[0].tokens for work in works]
    together = drive(load(folder), [(0, work) for work in works], results=results)
    assert [answer.tokens for answer in together] == each
    assert cached(together) == [0, len(SHARED), 2 * PAGE]


def test_numbers_that_are_none_fail_whoever_shares_them_and_nobody_else(folder: Path) -> None:
    llm, broken = load(folder), VisionFeatures(np.full((4, 48), np.nan, np.float32))
    works = [about("x", ENDS[0]), about("x", ENDS[1]), generate((*SHARED[:20], *ENDS[2]), 4)]
    *failed, fine = drive(llm, [(0, work) for work in works], results={"x": broken})
    assert all(isinstance(answer.error, StageFailed) for answer in failed)
    assert fine.tokens == alone(folder, works[2:])[0]
    again = drive(llm, [(0, generate((*SHARED, *end), 4)) for end in ENDS])
    assert all(answer.error is None for answer in again)


def test_nobody_copies_from_who_failed_in_the_step_that_computed_it(folder: Path) -> None:
    """Its image lies behind what is shared, in the same chunk."""
    llm, broken = load(folder), VisionFeatures(np.full((4, 48), np.nan, np.float32))
    beginning = SHARED[: 5 * PAGE]
    sampling = Sampling(max_tokens=4, temperature=0.0, logit_bias={2: -100.0})
    leader = Generate((*beginning, *range(90, 96)), sampling, (ImageSpan(41, 4, recipe("x")),))
    failed, fine = drive(llm, [(0, leader), (0, generate((*beginning, *ENDS[0]), 4))], results={"x": broken})
    assert isinstance(failed.error, StageFailed)
    assert fine.tokens == alone(folder, [generate((*beginning, *ENDS[0]), 4)])[0]
    assert cached([fine]) == [0]
