"""Keys that several heads share are not repeated for a prompt on a CPU, and the same numbers come out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.loading import load_language_model
from stages.llm.model.shared_keys import share_keys_on_cpu
from tests.stages.llm.tiny_models import save_decoder


def of(seed: int, heads: int, width: int, dtype: torch.dtype) -> Tensor:
    """[2, heads, width, 64], laid out as a projection leaves it."""
    drawn = torch.randn(2, width, heads, 64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).transpose(1, 2)


def mask_of(width: int, length: int, dtype: torch.dtype) -> Tensor:
    hidden = torch.rand(2, 1, width, length, generator=torch.Generator().manual_seed(0)) < 0.3
    return torch.zeros(2, 1, width, length, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def library() -> Any:
    ensure_torchvision()
    from transformers.integrations import sdpa_attention

    return sdpa_attention


def attend(*arguments: Any, **more: Any) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    share_keys_on_cpu()
    found: Tensor = ALL_ATTENTION_FUNCTIONS["sdpa"](*arguments, **more)[0]
    return found


class Module(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


@pytest.fixture
def no_repeating(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise AssertionError("keys were repeated")

    with monkeypatch.context() as patched:
        patched.setattr(library(), "repeat_kv", refuse)
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [2, 40, 300])
def test_the_same_numbers_as_the_library(dtype: torch.dtype, width: int) -> None:
    query, key, value = of(1, 6, width, dtype), of(2, 2, 320, dtype), of(3, 2, 320, dtype)
    mask = mask_of(width, 320, dtype)
    expected, _ = library().sdpa_attention_forward(Module(), query, key, value, mask, scaling=0.125)
    found = attend(Module(), query, key, value, mask, scaling=0.125)
    assert found.shape == (2, width, 6, 64)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("no_repeating")
def test_a_model_that_is_loaded_reads_prompts_without_repeating_keys(tmp_path: Path) -> None:
    folder = save_decoder("llama", tmp_path)
    model = load_language_model(resolve(Source(folder=str(folder))), LoadOptions(dtype="float32")).model
    config = model.config.get_text_config()
    assert config.num_key_value_heads < config.num_attention_heads
    mask = torch.zeros(1, 1, 5, 5).masked_fill_(torch.ones(5, 5).triu(1).bool(), torch.finfo(torch.float32).min)
    assert model(input_ids=torch.arange(5)[None], attention_mask=mask).logits.shape[1] == 5


@pytest.mark.usefixtures("no_repeating")
def test_what_else_is_asked_is_the_librarys_affair() -> None:
    query, keys = of(1, 6, 5, torch.float32), of(2, 2, 64, torch.float32)
    with pytest.raises(ValueError, match="softcap"):
        attend(Module(), query, keys, keys, mask_of(5, 64, torch.float32), scaling=0.125, softcap=30.0)
