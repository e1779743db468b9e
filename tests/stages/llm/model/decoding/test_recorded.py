"""Steps that are recorded and replayed give what the library's own `generate` gives; here they are computed again where a GPU would
replay a graph, and on a GPU they are replayed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.llm.llm import Llm
from stages.llm.messages import Generate
from stages.llm.model.decoding.recorded import enough, sizes
from stages.llm.model.self_check import record_decode
from stages.llm.settings import LlmSettings
from tests.stages.llm.driving import Answer, drive
from tests.stages.llm.library.oracle import greedy, load_whole, requests
from tests.stages.llm.library.test_oracle import DECODERS
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_qwen2_5_vl

SETTINGS = LlmSettings(6, max_context_tokens=400, prefill_chunk_tokens=64)
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph wants a GPU")


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_the_smallest_size_that_is_large_enough_is_taken(most: int, least: int, data: st.DataObject) -> None:
    found = sizes(most, least)
    assert found[-1] == most
    assert list(found) == sorted({*found})
    wanted = data.draw(st.integers(1, most))
    chosen = enough(found, wanted)
    assert wanted <= chosen <= max(least, 2 * wanted - 1, 1)


class Again:
    """Computes again what was recorded."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.num_recorded += 1

        def replay() -> Tensor:
            self.num_replayed += 1
            return compute()

        return replay


def loaded(folder: Path, device: str = "cpu") -> Llm:
    return Llm.load(resolve(Source(folder=str(folder))), LoadOptions(device=device), SETTINGS)


def expected(folder: Path, arrivals: Sequence[tuple[int, Generate]]) -> list[list[int]]:
    model = load_whole(folder)
    return [greedy(model, work.token_ids, work.sampling.max_tokens)[0] for _, work in arrivals]


def tokens(answers: Sequence[Answer]) -> list[list[int]]:
    return [answer.tokens for answer in answers]


@pytest.mark.models
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_each_request_gets_what_generate_gives_it_alone(kind: str, tmp_path: Path) -> None:
    folder = save_decoder(kind, tmp_path, **DECODERS.get(kind, {}))
    llm, again = loaded(folder), Again()
    record_decode(llm._forward, again)
    assert again.num_recorded == 3 * 2  # of 2, 4 and 6 lines; up to 256 and 400 tokens
    arrivals = requests(seed=12, count=20, longest=300)
    assert tokens(drive(llm, arrivals)) == expected(folder, arrivals)
    assert again.num_replayed > 20


@pytest.mark.models
def test_a_model_with_positions_in_three_rows_answers_text_too(tmp_path: Path) -> None:
    folder = save_qwen2_5_vl(tmp_path)
    plain, llm, again = loaded(folder), loaded(folder), Again()
    record_decode(llm._forward, again)
    arrivals = requests(seed=3, count=6, longest=60)
    assert tokens(drive(llm, arrivals)) == tokens(drive(plain, arrivals))
    assert again.num_replayed > 6


@pytest.mark.models
def test_where_recording_fails_steps_are_computed_as_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_decoder("llama", tmp_path)
    llm = loaded(folder)

    def fail(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    record_decode(llm._forward, fail)
    assert "not replayed: RuntimeError: operation not permitted" in caplog.text
    arrivals = requests(seed=4, count=6, longest=60)
    assert tokens(drive(llm, arrivals)) == expected(folder, arrivals)


@pytest.mark.models
def test_a_recording_that_gives_something_else_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = save_decoder("llama", tmp_path)
    llm = loaded(folder)
    record_decode(llm._forward, lambda compute: lambda: torch.roll(compute(), 1, dims=-1))
    assert "not replayed: their logits are" in caplog.text
    arrivals = requests(seed=5, count=6, longest=60)
    assert tokens(drive(llm, arrivals)) == expected(folder, arrivals)


@needs_a_gpu
@pytest.mark.models
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2"])
def test_on_a_gpu_graphs_are_replayed(kind: str, tmp_path: Path) -> None:
    folder = save_decoder(kind, tmp_path, **DECODERS.get(kind, {}))
    llm: Any = loaded(folder, "cuda")
    assert llm._forward._recorded is not None
    arrivals = requests(seed=12, count=20, longest=300)
    assert tokens(drive(llm, arrivals)) == expected(folder, arrivals)
