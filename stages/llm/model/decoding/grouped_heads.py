"""A copy of a model that computes one token a row without repeating keys: heads that share keys are rows of one head.

The library repeats keys and values for every head of a group before it attends, which reads and writes the whole memory of a step once
for each. Decides where a copy attends so (where the library would use torch's own attention). Knows no slots.
"""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn import functional

_ATTENTION = "triptych_grouped"


def with_grouped_heads(model: Any) -> Any:
    """A copy of the model's modules and configuration over the same parameters and buffers: what is done to the copy's modules, or the
    model's, changes nothing of the other's."""
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(_ATTENTION, _grouped_attention)
    copied = copy.deepcopy(model, {id(tensor): tensor for module in model.modules() for tensor in _tensors_of(module)})
    config = copied.config.get_text_config()
    if config._attn_implementation == "sdpa":
        config._attn_implementation = _ATTENTION
    return copied


def _tensors_of(module: Any) -> Iterator[Tensor]:
    """Registered or not: packed weights are not, and can't be copied."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """[batch, heads, 1, dim] -> [batch, 1, heads, dim]; anything longer than one token as the library has it."""
    batch, heads, length, dim = query.shape
    if length > 1 or arguments.get("position_bias") is not None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
        return found
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], dim)
    attended = functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=arguments.get("scaling")
    )
    return attended.reshape(batch, 1, heads, value.shape[-1]), None
