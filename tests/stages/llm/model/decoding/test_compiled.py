"""Compiled once at load, the graph serves every decoding step, and gives what the library's own `generate` gives."""

from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.llm import Llm
from stages.llm.model.decoding.compiled import neighbours
from stages.llm.model.slot_cache import Chunk
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import drive
from tests.stages.llm.library.oracle import greedy, load_whole, requests
from tests.stages.llm.library.test_oracle import DECODERS
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_qwen2_5_vl


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([3], range(3, 5)),
        ([15], range(14, 16)),
        ([2, 1], range(1, 3)),
        ([0, 7], range(8)),
        ([0, 8], None),
        ([0, 2, 5, 8, 9], range(10)),
        ([0, 4, 8, 9, 11], None),
    ],
)
def test_rows_near_each_other_go_through_the_graph(slots: list[int], expected: range | None) -> None:
    assert neighbours([Chunk(slot, 5, 1) for slot in slots], num_slots=16) == expected


def test_one_slot_is_a_graph_of_its_own_and_prompts_are_no_decoding_step() -> None:
    assert neighbours([Chunk(0, 5, 1)], num_slots=1) == range(1)
    assert neighbours([Chunk(0, 5, 1), Chunk(1, 5, 2)], num_slots=4) is None


@pytest.mark.models
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_each_request_gets_what_generate_gives_it_alone(kind: str, tmp_path: Path) -> None:
    folder = save_decoder(kind, tmp_path, **DECODERS[kind])
    settings = LlmSettings(12, max_context_tokens=128, prefill_chunk_tokens=64)
    llm = Llm.load(resolve(Source(folder=str(folder))), LoadOptions(compile=True), settings)
    arrivals = requests(seed=12, count=20, longest=90)
    with torch.compiler.set_stance("fail_on_recompile"):
        answers = drive(llm, arrivals)
    model = load_whole(folder)
    for (_, work), answer in zip(arrivals, answers, strict=True):
        tokens, _ = greedy(model, work.token_ids, work.sampling.max_tokens)
        assert answer.tokens == tokens


@pytest.mark.models
def test_a_model_with_positions_in_three_rows_answers_text_too(tmp_path: Path) -> None:
    checkpoint = resolve(Source(folder=str(save_qwen2_5_vl(tmp_path))))
    settings = LlmSettings(4, max_context_tokens=128, prefill_chunk_tokens=64)
    arrivals = requests(seed=3, count=6, longest=60)
    plain = drive(Llm.load(checkpoint, LoadOptions(), settings), arrivals)
    compiled = Llm.load(checkpoint, LoadOptions(compile=True), settings)
    with torch.compiler.set_stance("fail_on_recompile"):
        answers = drive(compiled, arrivals)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]


@pytest.mark.models
def test_what_cannot_be_compiled_fails_at_load_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no C++ compiler found\nmore")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    folder = save_decoder("llama", tmp_path)
    with pytest.raises(ConfigurationError, match=r"llm\.compile: .*no C\+\+ compiler found"):
        Llm.load(resolve(Source(folder=str(folder))), LoadOptions(compile=True), LlmSettings(2, 128, 64))
