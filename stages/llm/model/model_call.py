"""The one call of a `transformers` decoder that every step makes, compiled or not."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

Masks = Tensor | Mapping[str, Tensor]
"""What each token may attend to, as numbers to add to the scores, [batch, 1, width, read_length]; by layer type where layers
differ."""


def last_logits(model: Any, tokens: Mapping[str, Tensor], positions: Tensor, masks: Masks, cache: Any) -> Tensor:
    """`logits_behind` each row's last token only: [batch, vocabulary]."""
    return logits_behind(model, tokens, positions, masks, cache, num_last=1)[:, -1]


def logits_behind(
    model: Any, tokens: Mapping[str, Tensor], positions: Tensor, masks: Masks, cache: Any, *, num_last: int
) -> Tensor:
    """Writes the tokens' keys and values to the cache. Logits [batch, num_last, vocabulary] after each of a row's last tokens. `tokens`:
    {"input_ids": [batch, width]} or {"inputs_embeds": [batch, width, dim]}; positions [batch, width] or [3, batch, width]."""
    output = model(
        **tokens,
        attention_mask=masks,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=num_last,
    )
    logits: Tensor = output.logits[:, -num_last:]
    return logits
