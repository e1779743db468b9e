"""Attention of a prompt on a CPU without a copy of the keys that several heads share for each of them.

The library repeats keys and values for every head of a group wherever there is a mask, since on a GPU torch would else leave its fast
kernel. On a CPU that kernel takes shared keys as they are, and the same numbers come out (but for rounding, where it decides by the number
of heads how it lays out keys). Decides where; knows no slots.
"""

from functools import cache
from typing import Any

from torch import Tensor
from torch.nn import functional

_SDPA = "sdpa"


@cache
def share_keys_on_cpu() -> None:
    """From now on, for every model of this process that attends by torch's own attention."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    of_library = ALL_ATTENTION_FUNCTIONS[_SDPA]

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, None]:
        """[batch, heads, width, dim] -> [batch, width, heads, dim]."""
        is_shared = query.shape[1] != key.shape[1] and query.shape[2] > 1 and attention_mask is not None
        asks_more = any(arguments.get(name) is not None and arguments[name] is not False for name in _OF_LIBRARY)
        if not is_shared or asks_more or key.device.type != "cpu":
            found: tuple[Tensor, None] = of_library(module, query, key, value, attention_mask, **arguments)
            return found
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=arguments.get("dropout", 0.0),
            scale=arguments.get("scaling"),
            enable_gqa=True,
        )
        return attended.transpose(1, 2).contiguous(), None

    AttentionInterface.register(_SDPA, attend)


_OF_LIBRARY = ("position_bias", "cache", "softcap", "output_attentions")
"""What the library's own function looks at beside; with any of them it is asked."""
