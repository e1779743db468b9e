"""How likely a prompt's own tokens were: what the library's own forward pass says of the whole prompt, however it is computed here."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contract.recipe import NO_INPUTS
from stages.llm.llm import Llm
from stages.llm.messages import Generate, PromptLogprobs, Sampling, TokenLogprob
from stages.llm.sampling.scoring import LOGITS_BYTES, tokens_within
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import Answer, drive, exported
from tests.stages.llm.library.oracle import load, load_whole
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models

PROMPT = tuple(random.Random(1).choices(range(10, 390), k=50))
SETTINGS = LlmSettings(3, 128, 16, page_tokens=8)


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    more: dict[str, Any] = {"llama": {}, "gemma3_text": {"sliding_window": 16}}[request.param]
    return save_decoder(request.param, tmp_path_factory.mktemp(request.param), **more)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_whole(folder)


def scored(prompt: tuple[int, ...] = PROMPT, most: int = 2, max_tokens: int = 1, salt: str = "") -> Generate:
    sampling = Sampling(max_tokens, temperature=0.0, logprobs=most, prompt_logprobs=most, logit_bias={2: -100.0})
    return Generate(prompt, sampling, salt=salt)


def plain(prompt: tuple[int, ...] = PROMPT, max_tokens: int = 4) -> Generate:
    return Generate(prompt, Sampling(max_tokens, temperature=0.0, logit_bias={2: -100.0}))


def check(model: Any, answer: Answer, prompt: tuple[int, ...] = PROMPT, most: int = 2) -> None:
    with torch.inference_mode():
        logprobs = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
    assert answer.error is None
    assert [one.token_id for one in answer.of_prompt] == list(prompt[1:])
    for place, told in enumerate(answer.of_prompt):
        assert told.logprob == pytest.approx(float(logprobs[place, told.token_id]), abs=1e-4)
        best = logprobs[place].topk(most)
        assert [top.logprob for top in told.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert answer.end is not None
    assert answer.end.cached_tokens == 0


@pytest.mark.parametrize("chunk", [7, 16, 64])
@pytest.mark.parametrize("most", [0, 2])
def test_it_is_told_of_every_token_but_the_first(folder: Path, model: Any, chunk: int, most: int) -> None:
    llm = load(folder, LlmSettings(3, 128, chunk))
    (answer,) = drive(llm, [(0, scored(most=most))])
    check(model, answer, most=most)
    assert len(answer.logprobs) == 1


def test_the_likeliest_tokens_own_number_is_that_of_the_list(folder: Path) -> None:
    """Who looks whether a token is the likeliest compares the two."""
    (answer,) = drive(load(folder, SETTINGS), [(0, scored(max_tokens=8))])
    (again,) = drive(load(folder, SETTINGS), [(0, scored((*PROMPT, *answer.tokens)))])
    for told in again.of_prompt[len(PROMPT) - 1 :]:
        assert told.logprob == told.top[0].logprob
        assert told.token_id == told.top[0].token_id


def test_beside_others_everybody_gets_his_own(folder: Path, model: Any) -> None:
    llm = load(folder, SETTINGS)
    work = [(0, scored(PROMPT[:9])), (0, plain(PROMPT[::-1])), (1, scored(PROMPT[5:])), (2, scored(PROMPT[3:20]))]
    first, other, second, third = drive(llm, work)
    check(model, first, PROMPT[:9])
    check(model, second, PROMPT[5:])
    check(model, third, PROMPT[3:20])
    assert other.of_prompt == []
    assert other.tokens == drive(load(folder, SETTINGS), [(0, plain(PROMPT[::-1]))])[0].tokens


def test_nothing_that_a_slot_or_a_page_holds_is_taken(folder: Path, model: Any) -> None:
    llm, elsewhere = load(folder, SETTINGS), load(folder, SETTINGS)
    drive(elsewhere, [(0, plain())])
    pages = exported(elsewhere)
    assert pages
    drive(llm, [(0, plain())])
    (answer,) = drive(llm, [(0, scored())], pages=pages)
    assert answer.brought == []
    check(model, answer)


def test_what_it_leaves_in_its_slot_spares_the_next(folder: Path) -> None:
    llm = load(folder, SETTINGS)
    drive(llm, [(0, scored())])
    (after,) = drive(llm, [(0, plain())])
    assert after.end is not None
    assert after.end.cached_tokens == len(PROMPT) - 1


def test_who_makes_way_is_told_everything_once(folder: Path, model: Any) -> None:
    llm = load(folder, SETTINGS)
    work = [(0, scored(max_tokens=6)), (0, scored(PROMPT[7:], max_tokens=6))]
    for answer, (_, asked) in zip(drive(llm, work, preempt=lambda step, index: step in (1, 3, 6)), work, strict=True):
        check(model, answer, asked.token_ids)
        assert len(answer.tokens) == 6


def test_a_prompt_of_one_token_has_nothing_to_tell(folder: Path) -> None:
    (answer,) = drive(load(folder, SETTINGS), [(0, scored(PROMPT[:1]))])
    assert answer.of_prompt == []
    assert answer.end is not None


def test_a_pass_keeps_the_logits_of_few_tokens(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(folder, LlmSettings(3, 128, 64))
    llm._max_scored = 5
    whole, sizes = llm._forward.run_whole, list[int]()

    def counting(rows: Any, chunks: Any) -> Any:
        logits = whole(rows, chunks)
        sizes.append(logits.shape[0] * logits.shape[1])
        return logits

    monkeypatch.setattr(llm._forward, "run_whole", counting)
    work = [(0, scored()), (0, scored(PROMPT[:2])), (0, scored(PROMPT[:3]))]
    for answer, (_, asked) in zip(drive(llm, work), work, strict=True):
        check(model, answer, asked.token_ids)
    assert max(sizes) <= 5
    assert tokens_within(152_000) * 152_000 * 4 <= LOGITS_BYTES


def test_a_step_that_fails_has_told_nothing(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(folder, SETTINGS)
    work = scored()
    row = llm.start(work, llm.prepare(work, NO_INPUTS))
    told = list(_told(llm, row))
    assert told
    whole = llm._forward.run_whole

    def failing(rows: Any, chunks: Any) -> Any:
        whole(rows, chunks)
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(llm._forward, "run_whole", failing)
        with pytest.raises(MemoryError):
            llm.step([row])
    while row.is_scored:
        told += _told(llm, row)
    llm.finish(row)
    assert [one.token_id for one in told] == list(PROMPT[1:])


def test_logits_that_are_no_numbers_fail_their_row_only(folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(folder, SETTINGS)
    whole = llm._forward.run_whole

    def spoiled(rows: Any, chunks: Any) -> Any:
        logits = whole(rows, chunks).clone()
        for line, row in enumerate(rows):
            if row.contents.tokens[0] == PROMPT[1]:
                logits[line, -2] = float("nan")
        return logits

    monkeypatch.setattr(llm._forward, "run_whole", spoiled)
    good, bad = drive(llm, [(0, scored()), (0, scored(PROMPT[1:]))])
    check(model, good)
    assert bad.error is not None
    assert "no numbers" in str(bad.error)


def test_the_token_that_ends_an_answer_is_told_with_the_end(folder: Path) -> None:
    llm = load(folder, SETTINGS)
    always = replace(scored().sampling, logit_bias={2: 100.0}, max_tokens=5)
    (answer,) = drive(llm, [(0, Generate(PROMPT, always))])
    assert answer.end is not None
    assert answer.end.stop_token is not None
    assert answer.end.stop_token.token_id == 2
    assert answer.text == ""
    unasked = replace(always, logprobs=None, prompt_logprobs=None)
    (silent,) = drive(llm, [(0, Generate(PROMPT, unasked))])
    assert silent.end is not None
    assert silent.end.stop_token is None


def _told(llm: Llm, row: Any) -> list[TokenLogprob]:
    (stepped,) = llm.step([row])
    return [one for event in stepped.events if isinstance(event, PromptLogprobs) for one in event.logprobs]
