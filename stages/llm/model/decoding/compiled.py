"""The step that adds one token to every answer, as one compiled graph (`torch.compile`).

Of a decoding step only the number of rows and the length they read change. Both are symbols of the graph, so one compilation, at
load, serves all steps: the weights become its constants on a CPU (there, the compiler lays them out for its matrix products), and
the small operators between the products become few. Prompts are not computed here: they come in all widths, and spend their time
in the products.

Decides which steps can go through the graph, and what a row that only lies between others does (it writes back what is there).
Knows no requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from stages.contract.errors import ConfigurationError
from stages.llm.model.decoding.grouped_heads import with_grouped_heads
from stages.llm.model.model_call import Masks, last_logits
from stages.llm.model.slot_cache import Chunk, SlotCache, Window

MAX_IDLE_SHARE = 2
MIN_LINES = 8
"""Rows of a step may lie in as many neighbouring slots as this many times their number, and in this many in any case: with few
rows a step's time hardly depends on how many there are."""


def neighbours(chunks: Sequence[Chunk], num_slots: int) -> range | None:
    """The slots that the graph computes for these chunks: a run of at least two, where there are two (a graph of one row would
    be another graph). None where the chunks are no decoding step, or lie too far apart."""
    first, span = min(chunk.slot for chunk in chunks), max(chunk.slot for chunk in chunks)
    span -= first - 1
    if any(chunk.length != 1 for chunk in chunks) or span > max(MAX_IDLE_SHARE * len(chunks), MIN_LINES):
        return None
    if span == 1 and num_slots > 1:
        first, span = min(first, num_slots - 2), 2
    return range(first, first + span)


class CompiledDecode:
    """`run` is one decoding step of `model` over its slots. Compiled by `compile`, which must come before. `model` may be changed
    afterwards: its weights are shared, its modules are not."""

    def __init__(self, model: Any, slots: SlotCache) -> None:
        self._model, self._slots = with_grouped_heads(model), slots
        self._on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
        self._graph = torch.compile(self._logits, fullgraph=True)

    def compile(self, positions: Tensor, masks: Masks) -> None:
        """Takes about a minute for a small model. `positions` and `masks` as a step of idle rows has them: about as many as
        steps will have, since the compiler lays out weights for that number. Raises `ConfigurationError` where the model can't
        be compiled, or there is no C++ compiler."""
        from torch._inductor import config as inductor

        batch = positions.shape[-2]
        ids, idle = torch.zeros(batch, 1, dtype=torch.long, device=positions.device), torch.zeros(batch, dtype=torch.bool)
        keys, values = self._slots.readable(range(batch), _read_length(masks))
        places = torch.zeros(batch, dtype=torch.long, device=positions.device)
        arguments = (ids, positions, masks, places, idle.to(positions.device), keys, values)
        _mark_symbols(arguments, batch)
        try:
            with inductor.patch(freezing=self._on_cpu):
                self._graph(*arguments)
        except Exception as error:
            first_line = str(error).strip().splitlines()[:1]
            raise ConfigurationError(
                f"llm.compile: the model cannot be compiled here ({type(error).__name__}: {''.join(first_line)}); "
                "leave it out, or install a C++ compiler where that is what is missing"
            ) from error

    def run(self, ids: Tensor, positions: Tensor, masks: Masks, window: Window) -> Tensor:
        """A `Step` (`recorded.py`). `window` lies over neighbouring slots, a token each. Logits [batch, vocabulary]."""
        lines, places_of_lines = window.write_from[0], window.write_to[1]
        places = torch.zeros(window.batch, dtype=torch.long, device=ids.device)
        places[lines] = places_of_lines
        active = torch.zeros(window.batch, dtype=torch.bool, device=ids.device)
        active[lines] = places_of_lines < self._slots.max_tokens
        places *= active  # what lies behind is not among what the graph is given
        slots = range(window.first_slot, window.first_slot + window.batch)
        keys, values = self._slots.readable(slots, window.read_length)
        logits: Tensor = self._graph(ids, positions, masks, places, active, keys, values)
        return logits

    def _logits(
        self,
        ids: Tensor,
        positions: Tensor,
        masks: Masks,
        places: Tensor,
        active: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        layers = [_Line(key, value, places, active) for key, value in zip(keys, values, strict=True)]
        return last_logits(self._model, {"input_ids": ids}, positions, masks, Cache(layers=layers))


class _Line(CacheLayerMixin):
    """One layer's memory during one step: row i of the batch writes at `places[i]`, if it is active, and reads all of its line."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor, active: Tensor) -> None:
        self.keys, self.values, self._places, self._active = keys, values, places, active
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        self._write(self.keys, key_states)
        self._write(self.values, value_states)
        return self.keys, self.values

    def _write(self, memory: Tensor, states: Tensor) -> None:
        lines = torch.arange(len(memory), device=memory.device)
        there = memory[lines, :, self._places]
        memory[lines, :, self._places] = torch.where(self._active[:, None, None], states[:, :, 0], there)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


def _read_length(masks: Masks) -> int:
    """How many tokens of a slot the step reads."""
    return int((masks if isinstance(masks, Tensor) else next(iter(masks.values()))).shape[-1])


def _mark_symbols(arguments: tuple[Any, ...], batch: int) -> None:
    """Declares what changes between steps: the rows everywhere, and the length read."""
    ids, positions, masks, places, active, keys, values = arguments
    every_mask = [masks] if isinstance(masks, Tensor) else list(masks.values())
    if batch > 1:
        for tensor in (ids, *every_mask, places, active, *keys, *values):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        torch._dynamo.maybe_mark_dynamic(positions, positions.dim() - 2)
    for mask in every_mask:
        torch._dynamo.maybe_mark_dynamic(mask, 3)
    for tensor in (*keys, *values):
        torch._dynamo.maybe_mark_dynamic(tensor, 2)
