"""What a pipeline foresees of an answer, and what the stage says is left of one, is what steps do."""

from pathlib import Path

import pytest

from stages.contract.recipe import NO_INPUTS
from stages.contract.work import Work
from stages.llm.llm import Llm
from stages.llm.row import LlmRow
from stages.llm.work import answer_work
from tests.stages.llm.asking import PROMPT, generate, load

pytestmark = pytest.mark.models
CHUNK = 16


def stepped(llm: Llm, row: LlmRow) -> Work:
    """One step."""
    cost = llm.cost(row)
    (one,) = llm.step([row])
    return Work(cost if one.work is None else one.work, 1.0)


@pytest.mark.parametrize(("num_prompt", "num_answer"), [(30, 8), (16, 1), (17, 5), (3, 12)])
def test_an_answer_whose_length_is_known_is_foreseen_exactly(folder: Path, num_prompt: int, num_answer: int) -> None:
    llm = load(folder, chunk=CHUNK)
    payload = generate(PROMPT[:num_prompt], num_answer)
    row, did = llm.start(payload, llm.prepare(payload, NO_INPUTS)), Work(0.0, 0.0)
    while row.num_generated < num_answer:
        did += stepped(llm, row)
    llm.finish(row)
    assert answer_work(num_prompt, num_answer, CHUNK) == did


def test_what_is_left_of_a_row_counts_down_and_is_never_nothing(folder: Path) -> None:
    llm = load(folder, chunk=CHUNK)
    payload = generate(PROMPT, 40)
    row = llm.start(payload, llm.prepare(payload, NO_INPUTS))
    first = llm.rest(row)
    assert first is not None
    assert first.amount > first.steps > 1  # a prompt in chunks, and an answer of a length that is guessed
    before, num_told = first, 0
    for _ in range(39):
        foreseen, did = row.foreseen, stepped(llm, row)
        told = llm.rest(row)
        num_told += told is not None
        now = before - did if told is None else told
        assert now.steps >= 1
        if row.foreseen == foreseen:
            assert (now.amount, now.steps) == pytest.approx((before.amount - did.amount, before.steps - did.steps))
        before = now
    assert num_told < 20  # an answer that goes on as was foreseen tells nothing new
    llm.finish(row)


def test_the_stage_learns_how_long_answers_are(folder: Path) -> None:
    llm = load(folder, chunk=64)
    for _ in range(60):
        payload = generate(PROMPT, 4)
        row = llm.start(payload, llm.prepare(payload, NO_INPUTS))
        while row.num_generated < 4:
            llm.step([row])
        llm.finish(row)
    assert llm._lengths.expected(4) == pytest.approx(4, rel=0.1)
    assert llm._lengths.expected(96) > 10  # they were cut, so nobody knows
    assert llm.max_step_amount == 64 + 4
