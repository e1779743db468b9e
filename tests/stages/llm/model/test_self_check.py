"""The check at load: what it must not be put off by, and what it must see in every dtype."""

from pathlib import Path
from typing import Any

import pytest

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.llm import Llm
from stages.llm.settings import LlmSettings
from tests.stages.llm.tiny_models import save_decoder

pytestmark = pytest.mark.models
MILD: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 6,
    "long_factor": [1.5] * 6,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
}


def load(folder: Path, dtype: str = "float32", context: int = 128) -> Llm:
    checkpoint = resolve(Source(folder=str(folder)))
    return Llm.load(checkpoint, LoadOptions(dtype=dtype), LlmSettings(2, context, 16))


def test_several_end_tokens_in_the_configuration_are_no_obstacle(tmp_path: Path) -> None:
    assert load(save_decoder("llama", tmp_path, eos_token_id=[2, 5])).num_cache_bytes > 0


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rope_that_depends_on_length_a_little_is_seen_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    folder = save_decoder("llama", tmp_path, rope_parameters=MILD)
    with pytest.raises(ConfigurationError, match="longrope"):
        load(folder, dtype)
    assert load(folder, dtype, context=64).num_cache_bytes > 0


@pytest.mark.cpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_ordinary_model_passes_in_every_dtype(tmp_path: Path, dtype: str) -> None:
    folder = save_decoder("llama", tmp_path, num_hidden_layers=24, initializer_range=0.06)
    assert load(folder, dtype).num_cache_bytes > 0
