"""How requests share the stage: streams keep flowing, slots come back, prefixes are reused, and one bad row fails alone."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError, InvalidRequest, StageFailed
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing
from stages.contract.stage import IterativeStage, Resident, Share
from stages.device.arrays import as_array
from stages.llm.llm import Llm
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.llm.prompts.prompt import PreparedPrompt
from stages.llm.row import LlmRow
from stages.llm.settings import LlmSettings
from stages.vision.messages import VisionFeatures
from tests.stages.llm.driving import Answer, drive, recipe
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models

PROMPT = tuple(range(10, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"))


def load(folder: Path, num_slots: int = 4, context: int = 128, chunk: int = 16) -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(), LlmSettings(num_slots, context, chunk))


def generate(prompt: tuple[int, ...] = PROMPT, max_tokens: int = 8, salt: str = "", **settings: object) -> Generate:
    defaults: dict[str, Any] = {"temperature": 0.0, "logit_bias": {2: -100.0}}
    sampling = Sampling(max_tokens=max_tokens, **(defaults | settings))
    return Generate(prompt, sampling, salt=salt)


def started(llm: Llm, work: Generate, inputs: Inputs = NO_INPUTS) -> LlmRow:
    return llm.start(work, llm.prepare(work, inputs))


def with_image(offset: int, length: int, prompt: tuple[int, ...] = PROMPT, max_tokens: int = 4, **settings: Any) -> Generate:
    """Features named "x" stand at `offset`."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, **settings)
    return Generate(prompt, sampling, (ImageSpan(offset, length, recipe("x")),))


def test_a_long_prompt_does_not_stall_running_streams(folder: Path) -> None:
    running, long = drive(load(folder), [(0, generate(PROMPT[:4], 20)), (3, generate(PROMPT * 3, 2))])
    assert running.steps == list(range(20))
    assert long.steps[0] > 3 + 4


def test_a_short_prompt_overtakes_a_long_one(folder: Path) -> None:
    long, short = drive(load(folder), [(0, generate(tuple(range(10, 110)), 2)), (1, generate(PROMPT[:6], 2))])
    assert short.steps[0] < long.steps[0]


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


@pytest.mark.parametrize("shape", [(5, 48), (4, 40), (4,)], ids=["another length", "another width", "no rows"])
def test_features_of_another_model_fail_before_anything_starts(folder: Path, shape: tuple[int, ...]) -> None:
    llm, features = load(folder), VisionFeatures(np.zeros(shape, dtype=np.float32))
    llm.check(with_image(3, 4))
    with pytest.raises(StageFailed, match=r"need \(4, 48\): the vision encoder belongs to another model"):
        llm.prepare(with_image(3, 4), Inputs({"x": features}))


def test_it_is_an_iterative_stage_that_names_what_it_holds(folder: Path) -> None:
    stage: IterativeStage[Generate, PreparedPrompt, LlmRow] = load(folder)
    assert isinstance(stage, Resident)


def image_of(seed: int, rows: int = 4) -> VisionFeatures:
    return VisionFeatures(np.random.default_rng(seed).standard_normal((rows, 48)).astype(np.float32))


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
