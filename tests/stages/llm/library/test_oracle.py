"""Whatever arrives with a request, and when: it gets what the library's own `generate` gives for it alone."""

import random
from pathlib import Path
from typing import Any

import pytest

from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import drive
from tests.stages.llm.library.oracle import PAGED, elsewhere, greedy, load, load_whole, requests
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models

DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
}


@pytest.fixture(scope="module", params=DECODERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(request.param, tmp_path_factory.mktemp(request.param), **DECODERS[request.param])


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_whole(folder)


@pytest.mark.parametrize(("num_slots", "chunk"), [(1, 7), (4, 16), (6, 64)])
def test_each_request_gets_what_generate_gives_it_alone(folder: Path, model: Any, num_slots: int, chunk: int) -> None:
    llm = load(folder, LlmSettings(num_slots, max_context_tokens=128, prefill_chunk_tokens=chunk))
    arrivals = requests(seed=num_slots, count=9, longest=80)
    for (_, work), answer in zip(arrivals, drive(llm, arrivals), strict=True):
        tokens, logprobs = greedy(model, work.token_ids, work.sampling.max_tokens)
        assert answer.tokens == tokens
        assert answer.end is not None
        assert answer.end.completion_tokens == len(tokens)
        assert answer.end.reason == ("stop" if tokens[-1] == 2 else "length")
        for place, found in enumerate(answer.logprobs):
            assert found.logprob == pytest.approx(float(logprobs[place, found.token_id]), abs=1e-4)
            best = logprobs[place].topk(3)
            assert [top.token_id for top in found.top] == best.indices.tolist()
            assert [top.logprob for top in found.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_who_begins_with_pages_that_another_stage_computed_gets_the_same_answer(folder: Path, model: Any, seed: int) -> None:
    arrivals = requests(seed=seed, count=9, longest=80)
    answers = elsewhere(load(folder, PAGED), load(folder, PAGED), arrivals)
    for (_, work), answer in zip(arrivals, answers, strict=True):
        assert answer.tokens == greedy(model, work.token_ids, work.sampling.max_tokens)[0]


def test_the_text_is_the_tokenizers_own(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = load(folder, LlmSettings(4, max_context_tokens=128, prefill_chunk_tokens=32))
    for answer in drive(llm, requests(seed=5, count=6, longest=40)):
        whole = tokenizer.decode(answer.tokens, skip_special_tokens=True)
        # Bytes at the end that began a character are not shown.
        assert answer.text in (whole, whole.removesuffix("\N{REPLACEMENT CHARACTER}"))


def test_memory_is_taken_once_and_never_grows(folder: Path) -> None:
    llm = load(folder, LlmSettings(3, max_context_tokens=128, prefill_chunk_tokens=32))
    before = llm.num_cache_bytes
    drive(llm, requests(seed=1, count=7, longest=100))
    assert llm.num_cache_bytes == before > 0


@pytest.mark.parametrize("seed", range(3))
def test_a_row_that_makes_way_again_and_again_gets_the_same_answer(folder: Path, model: Any, seed: int) -> None:
    llm = load(folder, LlmSettings(2, max_context_tokens=128, prefill_chunk_tokens=16))
    arrivals = requests(seed=seed, count=6, longest=60)
    source = random.Random(seed)
    num_preempted = 0

    def preempt(step: int, index: int) -> bool:
        nonlocal num_preempted
        if step > 60 or source.random() > 0.15:
            return False
        num_preempted += 1
        return True

    answers = drive(llm, arrivals, preempt=preempt)
    assert num_preempted > 3
    for (_, work), answer in zip(arrivals, answers, strict=True):
        tokens, _ = greedy(model, work.token_ids, work.sampling.max_tokens)
        assert answer.tokens == tokens
        assert answer.end is not None
        assert answer.end.completion_tokens == len(tokens)
        assert len(answer.logprobs) >= len(tokens) - 1
