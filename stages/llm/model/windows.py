"""Who may attend to whom, by type of layer: everything before, a window of the last tokens, or the tokens of the same chunk.

Decides it from a model's configuration, as the library's own masks do. Knows no slots and no requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""The types of layers that these rules can speak for."""


@dataclass(frozen=True, slots=True)
class Windows:
    """`sliding`: tokens that a sliding layer sees, its own included. `chunk`: tokens of a chunk. `by_layer`: whether layers of
    one model differ."""

    sliding: int | None
    chunk: int | None
    by_layer: bool

    @classmethod
    def of(cls, config: Any) -> "Windows":
        layer_types = frozenset(getattr(config, "layer_types", None) or ())
        sliding = getattr(config, "sliding_window", None)
        if layer_types and "sliding_attention" not in layer_types:
            sliding = None
        chunk = getattr(config, "attention_chunk_size", None) if "chunked_attention" in layer_types else None
        return cls(sliding, chunk, bool(layer_types) and (sliding or chunk) is not None)

    def allowed(self, places: Tensor, keys: Tensor) -> Tensor | Mapping[str, Tensor]:
        """True where a token at one of `places` may attend to one of `keys`, broadcast over both; by type of layer where they
        differ."""
        past = keys <= places
        near = past & (keys > places - self.sliding) if self.sliding is not None else past
        if not self.by_layer:
            return near
        found = {"full_attention": past, "sliding_attention": near}
        if self.chunk is not None:
            found["chunked_attention"] = past & (keys // self.chunk == places // self.chunk)
        return found
