"""How requests share the stage: streams keep flowing, slots come back, prefixes are reused, and one bad row fails alone."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError, InvalidRequest, StageFailed
from stages.contract.recipe import NO_INPUTS, Inputs
from stages.contract.stage import IterativeStage, Resident, Share
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.prompts.prompt import PreparedPrompt
from stages.llm.row import LlmRow
from stages.llm.settings import LlmSettings
from stages.vision.messages import VisionFeatures
from tests.stages.llm.asking import PROMPT, generate, image_of, load, with_image
from tests.stages.llm.driving import drive, recipe

pytestmark = pytest.mark.models


def started(llm: Llm, work: Generate, inputs: Inputs = NO_INPUTS) -> LlmRow:
    return llm.start(work, llm.prepare(work, inputs))


def test_a_long_prompt_does_not_stall_running_streams(folder: Path) -> None:
    running, long = drive(load(folder), [(0, generate(PROMPT[:4], 20)), (3, generate(PROMPT * 3, 2))])
    assert running.steps == list(range(20))
    assert long.steps[0] > 3 + 4


def test_a_short_prompt_overtakes_a_long_one(folder: Path) -> None:
    long, short = drive(load(folder), [(0, generate(tuple(range(10, 110)), 2)), (1, generate(PROMPT[:6], 2))])
    assert short.steps[0] < long.steps[0]


def test_on_a_cpu_no_step_has_time_for_anything_else(folder: Path) -> None:
    told: list[None] = []
    llm = load(folder)
    assert not llm.while_computing(lambda: told.append(None))
    row = started(llm, generate(PROMPT, 2))
    while row.num_generated < 2:
        llm.step([row])
    llm.finish(row)
    assert not told


def test_on_a_device_every_step_has_time_once(folder: Path) -> None:
    llm = load(folder)
    told: list[int] = []
    row = started(llm, generate(PROMPT * 3, 3))
    llm._while_computing = lambda: told.append(row.num_generated)  # as where what is computed is launched
    num_steps = 0
    while row.num_generated < 3:
        llm.step([row])
        num_steps += 1
    llm.finish(row)
    assert len(told) == num_steps > 3
    assert told[-3:] == [0, 1, 2]


def test_requests_wait_for_a_slot_and_get_one(folder: Path) -> None:
    llm = load(folder, num_slots=1)
    first = started(llm, generate())
    assert not llm.can_start(generate())
    llm.finish(first)
    assert llm.can_start(generate())
    assert [len(answer.tokens) for answer in drive(llm, [(0, generate()), (0, generate(PROMPT[5:]))])] == [8, 8]


def test_a_client_that_leaves_frees_its_slot_and_disturbs_nobody(folder: Path) -> None:
    alone = drive(load(folder), [(0, generate(PROMPT[3:], 12))])[0]
    work = [(0, generate(PROMPT[3:], 12)), (0, generate(PROMPT * 2)), (1, generate(PROMPT[9:]))]
    llm = load(folder, num_slots=2)
    stayed, left, late = drive(llm, work, cancel=lambda step, index: index == 1 and step == 2)
    assert stayed.tokens == alone.tokens
    assert left.end is None
    assert late.end is not None


def test_max_tokens_zero_means_as_many_as_fit(folder: Path) -> None:
    answer = drive(load(folder, context=64), [(0, generate(PROMPT, 0))])[0]
    assert answer.end is not None
    assert (answer.end.reason, answer.end.completion_tokens) == ("length", 64 - len(PROMPT))


def test_a_stop_token_ends_an_answer_and_is_not_shown(folder: Path) -> None:
    answer = drive(load(folder), [(0, generate(logit_bias={2: 100.0}))])[0]
    assert answer.text == ""
    assert answer.end is not None
    assert (answer.end.reason, answer.end.completion_tokens) == ("stop", 1)


def test_a_stop_string_ends_an_answer_and_is_not_shown(folder: Path) -> None:
    whole = drive(load(folder), [(0, generate(max_tokens=20))])[0]
    stop = whole.text[6:9]
    answer = drive(load(folder), [(0, generate(max_tokens=20, stop=(stop,)))])[0]
    assert answer.text == whole.text[: whole.text.index(stop)]
    assert answer.end is not None
    assert answer.end.reason == "stop"
    assert answer.end.completion_tokens < 20


def test_sampling_depends_on_the_seed_alone_not_on_the_company(folder: Path) -> None:
    settings: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 11, "max_tokens": 12}
    alone = drive(load(folder), [(0, generate(**settings))])[0]
    noisy = generate(PROMPT[2:], temperature=1.0, max_tokens=9)
    crowd = [(0, noisy), (2, generate(**settings)), (3, generate(PROMPT[7:]))]
    assert drive(load(folder), crowd)[1].tokens == alone.tokens
    other = drive(load(folder), [(0, generate(**(settings | {"seed": 12})))])[0]
    assert other.tokens != alone.tokens


def test_a_sampled_answer_that_made_way_goes_on_with_the_same_tokens(folder: Path) -> None:
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 3, "frequency_penalty": 0.4, "max_tokens": 24}
    settings |= {"repetition_penalty": 1.1, "presence_penalty": 0.2}
    alone = drive(load(folder), [(0, generate(**settings))])[0]
    work = [(0, generate(**settings)), (1, generate(PROMPT[2:], 20, temperature=1.0))]
    made_way = drive(load(folder, num_slots=2), work, preempt=lambda step, index: index == 0 and step in (6, 15))
    assert made_way[0].tokens == alone.tokens


def test_a_known_prefix_is_not_computed_again_and_changes_nothing(folder: Path) -> None:
    llm = load(folder)
    first = drive(llm, [(0, generate(max_tokens=6))])[0]
    assert first.end is not None
    assert first.end.cached_tokens == 0
    turn = (*PROMPT, *first.tokens, 50, 51, 52)
    fresh = drive(load(folder), [(0, generate(turn))])[0]
    again = drive(llm, [(0, generate(turn))])[0]
    assert again.tokens == fresh.tokens
    assert again.end is not None
    assert again.end.cached_tokens == len(PROMPT) + 5  # the answer's last token was never fed


def test_a_shared_beginning_is_copied_from_a_running_request(folder: Path) -> None:
    prompts = [(*PROMPT, 50), (*PROMPT, 60, 61)]
    alone = [drive(load(folder), [(0, generate(prompt, 20))])[0] for prompt in prompts]
    together = drive(load(folder), [(0, generate(prompts[0], 20)), (5, generate(prompts[1], 20))])
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert together[1].end is not None
    assert together[1].end.cached_tokens == len(PROMPT)


def test_no_tenant_profits_from_what_another_asked(folder: Path) -> None:
    llm = load(folder)
    drive(llm, [(0, generate(salt="a"))])
    answers = [drive(llm, [(0, generate(salt=salt))])[0] for salt in ("b", "a")]
    assert [answer.end and answer.end.cached_tokens for answer in answers] == [0, len(PROMPT) - 1]


def test_values_that_are_no_numbers_fail_their_own_request(folder: Path) -> None:
    llm = load(folder)
    features = VisionFeatures(np.full((4, 48), np.nan, dtype=np.float32))
    failed, fine = drive(llm, [(0, with_image(3, 4)), (0, generate(PROMPT[1:]))], results={"x": features})
    assert isinstance(failed.error, StageFailed)
    assert fine.error is None
    assert fine.tokens == drive(load(folder), [(0, generate(PROMPT[1:]))])[0].tokens


def test_a_slot_is_clean_after_values_that_were_no_numbers(folder: Path) -> None:
    """Attention reads over a row's end; a weight of zero times no number is no number."""
    llm = load(folder, num_slots=1)
    features = VisionFeatures(np.full((20, 48), np.nan, dtype=np.float32))
    assert isinstance(drive(llm, [(0, with_image(9, 20))], results={"x": features})[0].error, StageFailed)
    assert drive(llm, [(0, generate(PROMPT[:5]))])[0].error is None


@pytest.mark.cpu
def test_half_precision_answers_too(folder: Path) -> None:
    settings = LlmSettings(num_slots=3, max_context_tokens=128, prefill_chunk_tokens=16)
    llm = Llm.load(resolve(Source(folder=str(folder))), LoadOptions(dtype="bfloat16"), settings)
    answers = drive(llm, [(0, generate()), (1, generate(PROMPT * 2)), (2, generate(temperature=1.0, seed=1, top_p=0.5))])
    assert [answer.end is not None and answer.end.completion_tokens for answer in answers] == [8, 8, 8]


def test_a_context_beyond_the_model_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"max_context_tokens: 513 .* 512"):
        load(folder, context=513)


@pytest.mark.parametrize(("name", "settings"), [("num_slots", (0, 10, 10)), ("prefill_chunk_tokens", (1, 10, 0))])
def test_settings_that_cannot_work_are_refused(name: str, settings: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match=name):
        LlmSettings(*settings)


REFUSED: dict[str, tuple[Generate, str, str]] = {
    "an empty prompt": (generate(()), "token_ids", "no tokens"),
    "a prompt without room": (generate(PROMPT * 5), "token_ids", r"150 tokens.*128"),
    "an answer without room": (generate(max_tokens=99), "max_tokens", r"99.*98 fit"),
    "a token outside the vocabulary": (generate((5, 400)), "token_ids", "token 400 at place 1"),
    "a bias outside the vocabulary": (generate(logit_bias={400: 1.0}), "logit_bias", "token 400"),
    "a bias beyond 100": (generate(logit_bias={4: 101.0}), "logit_bias", "101"),
    "a temperature below 0": (generate(temperature=-0.1), "temperature", "-0.1"),
    "top_p 0": (generate(top_p=0.0), "top_p", "top_p 0.0"),
    "too many alternatives": (generate(logprobs=21), "logprobs", "21"),
    "min_p above 1": (generate(min_p=1.5), "min_p", "1.5"),
    "a repetition penalty of 0": (generate(repetition_penalty=0.0), "repetition_penalty", "0.0"),
    "a penalty of 3": (generate(frequency_penalty=3.0), "frequency_penalty", "3.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_never_run_is_refused_with_the_field_value_and_limit(folder: Path, name: str) -> None:
    work, param, message = REFUSED[name]
    with pytest.raises(InvalidRequest, match=message) as caught:
        load(folder).check(work)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "places",
    [[(28, 4)], [(3, 4), (6, 2)], [(3, 0)], [(-1, 4)]],
    ids=["behind the prompt", "overlapping", "empty", "before it"],
)
def test_images_outside_the_prompt_are_refused(folder: Path, places: list[tuple[int, int]]) -> None:
    images = tuple(ImageSpan(offset, length, recipe("x")) for offset, length in places)
    with pytest.raises(InvalidRequest, match="image"):
        load(folder).check(Generate(PROMPT, Sampling(max_tokens=4), images))


def test_it_is_an_iterative_stage_that_names_what_it_holds(folder: Path) -> None:
    stage: IterativeStage[Generate, PreparedPrompt, LlmRow] = load(folder)
    assert isinstance(stage, Resident)


def test_what_slots_hold_can_be_asked_for_while_they_change(folder: Path) -> None:
    llm, results = load(folder, num_slots=2), {"x": image_of(1)}
    ended = threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        try:
            while not ended.is_set():
                llm.resident_names()
                llm.share(llm.prepare(with_image(3, 4), Inputs(results)))
                assert {one.name for one in llm.needs(with_image(3, 4))} <= {"x"}
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for turn in range(10):
            drive(llm, [(0, with_image(3, 4)), (1, generate(PROMPT[turn:]))], results=results)
    finally:
        ended.set()
        asking.join()
    assert not errors


def test_a_step_that_runs_out_of_memory_has_changed_no_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every step any pass may be the one that does not fit; done again, the step gives what it would have given."""
    work = [(0, generate(PROMPT[:9], 12, temperature=1.0, seed=5)), (2, generate(PROMPT * 2)), (3, generate(PROMPT[5:], 9))]
    expected = [answer.tokens for answer in drive(load(folder), work)]
    llm = load(folder)
    run, num_left = llm._forward.run, 0

    def failing_run(*args: Any) -> Any:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(*args)

    step, num_failures = llm.step, 0

    def stubborn_step(rows: Any) -> Any:
        nonlocal num_left, num_failures
        for num_passes in range(10):
            num_left = num_passes
            before = [(row.contents.num_computed, row.images, list(row.contents.tokens)) for row in rows]
            try:
                return step(rows)
            except torch.OutOfMemoryError:
                num_failures += 1
                assert before == [(row.contents.num_computed, row.images, row.contents.tokens) for row in rows]
        raise AssertionError("a step has few passes")

    monkeypatch.setattr(llm._forward, "run", failing_run)
    monkeypatch.setattr(llm, "step", stubborn_step)
    assert [answer.tokens for answer in drive(llm, work)] == expected
    assert num_failures > 20


def test_prompts_come_in_smaller_chunks_where_one_does_not_fit(folder: Path) -> None:
    llm = load(folder, chunk=64)
    work = generate(PROMPT * 3)
    assert llm.weigh(work) == 64.0
    assert [llm.shrink() for _ in range(3)] == [True, True, False]
    assert llm.weigh(work) == 16.0
    assert drive(llm, [(0, work)])[0].tokens == drive(load(folder, chunk=64), [(0, work)])[0].tokens
    assert not load(folder, chunk=8).shrink()


def test_what_a_request_will_weigh_is_what_its_row_weighs(folder: Path) -> None:
    llm = load(folder, chunk=64)
    for prompt in (PROMPT[:1], PROMPT, PROMPT * 3):
        prepared = llm.prepare(generate(prompt), NO_INPUTS)
        row = llm.start(generate(prompt), prepared)
        assert llm.weigh(generate(prompt)) == llm.cost(row)
        llm.finish(row)
        llm = load(folder, chunk=64)


def test_of_prompts_that_share_a_step_each_is_said_to_have_had_what_was_computed_of_it(folder: Path) -> None:
    llm = load(folder, chunk=8)
    rows = [started(llm, generate(tuple(range(10, 30)))), started(llm, generate(tuple(range(20, 50))))]
    assert [llm.cost(row) for row in rows] == [8, 8]
    assert [one.work for one in llm.step(rows)] == [8, 0]
    assert [one.work for one in llm.step([rows[1], rows[0]])] == [4, 4]
    for row in rows:
        llm.finish(row)


def test_once_prepared_a_request_weighs_what_is_still_to_be_computed(folder: Path) -> None:
    llm = load(folder, chunk=64)
    drive(llm, [(0, generate())])
    work = generate((*PROMPT, 9, 8, 7))
    prepared = llm.prepare(work, NO_INPUTS)
    row = llm.start(work, prepared)
    assert llm.share(prepared) == Share(llm.batch_key(row), llm.cost(row)) == Share("llm", 3.0)
    assert llm.weigh(work) == 33.0
