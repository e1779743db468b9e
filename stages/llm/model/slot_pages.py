"""Between the slots' memory and pages that are remembered: out of a slot onto the host, and back into one.

Decides the layout of a page's numbers. Knows neither names nor tokens. A page that is to be written stays as it came until then (also
in int8): what waits takes no more memory for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.device.arrays import as_array, as_tensor
from stages.llm.model.slot_cache import SlotCache
from stages.llm.pages.int8 import KEYS, VALUES, Shared, packed, unpacked
from stages.llm.pages.kv_page import KvPage

WRITTEN_AT_ONCE = 16
"""Pages that are brought onto a device together, on their way into a slot."""

_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class CannotPage(Exception):
    """Keys and values that can't be handed over in pages. Says why."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Keys, or values, of one layer: its memory [slots, heads, tokens, dim], the same as bits where it lies on the host, and where a page
    has it: numbers, and scales."""

    memory: Tensor
    bits: NDArray[Any] | None
    numbers: slice
    scales: slice


@dataclass(frozen=True, slots=True)
class _Side:
    """Keys, or values, of all layers, and how many numbers and scales a page has of them."""

    layers: tuple[_Layer, ...]
    num_numbers: int
    num_scales: int
    shared: Shared

    @classmethod
    def of(cls, memories: Sequence[Tensor], page_tokens: int, shared: Shared) -> "_Side":
        layers: list[_Layer] = []
        numbers = scales = 0
        for memory in memories:
            _, heads, _, dim = memory.shape
            more_numbers, more_scales = heads * page_tokens * dim, heads * (dim if shared is KEYS else page_tokens)
            of_numbers, of_scales = slice(numbers, numbers + more_numbers), slice(scales, scales + more_scales)
            layers.append(_Layer(memory, _bits_of(memory), of_numbers, of_scales))
            numbers, scales = numbers + more_numbers, scales + more_scales
        return cls(tuple(layers), numbers, scales, shared)


class SlotPages:
    """Pages of `page_tokens` tokens of the slots of one model, after its first forward pass. `int8`: as whole numbers with scales, not
    as they were computed. Raises `CannotPage`.

    `read` and `write`: the engine's thread; `fits`: any."""

    def __init__(self, slots: SlotCache, page_tokens: int, *, int8: bool = False) -> None:
        memories = slots.memories()
        _check(memories)
        self.page_tokens, self._int8 = page_tokens, int8
        self._dtype: torch.dtype = memories[0][0].dtype
        self._device: torch.device = memories[0][0].device
        self._array_dtype = np.dtype(np.int8) if int8 else as_array(torch.empty(0, dtype=self._dtype)).dtype
        self._keys = _Side.of([keys for keys, _ in memories], page_tokens, KEYS)
        self._values = _Side.of([values for _, values in memories], page_tokens, VALUES)

    @property
    def num_bytes(self) -> int:
        """Of a page."""
        numbers = self._keys.num_numbers + self._values.num_numbers
        if not self._int8:
            return numbers * self._dtype.itemsize
        return numbers + 4 * (self._keys.num_scales + self._values.num_scales)

    def fits(self, page: KvPage) -> bool:
        """Whether it is one that `read` could have given."""
        return self._fits(self._keys, page.keys, page.key_scales) and self._fits(self._values, page.values, page.value_scales)

    def read(self, slot: int, number: int, grids: NDArray[np.int64] | None = None) -> KvPage:
        """The `number`th page of a slot, from 0, in memory of its own on the host."""
        keys, key_scales = self._read(self._keys, slot, number)
        values, value_scales = self._read(self._values, slot, number)
        return KvPage(keys, values, key_scales, value_scales, grids)

    def write(self, slot: int, number: int, pages: Sequence[KvPage]) -> None:
        """Makes them the `number`th page of the slot and those after it. Each of them fits."""
        for done in range(0, len(pages), WRITTEN_AT_ONCE):
            some = pages[done : done + WRITTEN_AT_ONCE]
            self._write(self._keys, slot, number + done, [page.keys for page in some], [page.key_scales for page in some])
            self._write(
                self._values, slot, number + done, [page.values for page in some], [page.value_scales for page in some]
            )

    def _fits(self, side: _Side, numbers: NDArray[Any], scales: NDArray[Any] | None) -> bool:
        if numbers.shape != (side.num_numbers,) or numbers.dtype != self._array_dtype or (scales is not None) != self._int8:
            return False
        return scales is None or (scales.shape == (side.num_scales,) and scales.dtype == np.float32)

    def _read(self, side: _Side, slot: int, number: int) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        tokens = slice(number * self.page_tokens, (number + 1) * self.page_tokens)
        if not self._int8 and self._device.type == "cpu":
            return _read_on_host(side, slot, tokens).view(self._array_dtype), None
        found = torch.empty(side.num_numbers, dtype=torch.int8 if self._int8 else self._dtype, device=self._device)
        scales = torch.empty(side.num_scales if self._int8 else 0, dtype=torch.float32, device=self._device)
        for layer in side.layers:
            states = layer.memory[slot, :, tokens]
            if self._int8:
                states, of_layer = packed(states, side.shared)
                scales[layer.scales] = of_layer.flatten()
            found[layer.numbers].view(states.shape).copy_(states)
        return as_array(found), as_array(scales) if self._int8 else None

    def _write(
        self, side: _Side, slot: int, number: int, pages: Sequence[NDArray[Any]], scales: Sequence[NDArray[Any] | None]
    ) -> None:
        begin, end = number * self.page_tokens, (number + len(pages)) * self.page_tokens
        if self._device.type == "cpu" and not self._int8:
            _write_on_host(side, slot, slice(begin, end), pages)
            return
        numbers = self._stacked(pages, torch.int8 if self._int8 else self._dtype)
        factors = self._stacked([one for one in scales if one is not None], torch.float32) if self._int8 else None
        for layer in side.layers:
            heads, dim = layer.memory.shape[1], layer.memory.shape[3]
            # [pages, heads, tokens, dim]; it stays a view: only the dimension of tokens is parted
            target = layer.memory[slot, :, begin:end].view(heads, len(pages), self.page_tokens, dim).transpose(0, 1)
            states = numbers[:, layer.numbers].view(target.shape)
            if factors is not None:
                scales_of = factors[:, layer.scales].view(len(pages), heads, -1)
                states = unpacked(states, scales_of, side.shared, self._dtype)
            target.copy_(states)

    def _stacked(self, arrays: Sequence[NDArray[Any]], dtype: torch.dtype) -> Tensor:
        return torch.stack([as_tensor(array, dtype=dtype, device=self._device) for array in arrays])


# numpy, since a call of torch takes as long as the copying: a page has dozens of layers.


def _read_on_host(side: _Side, slot: int, tokens: slice) -> NDArray[Any]:
    """One page, as bits."""
    held = [layer.bits[slot, :, tokens] for layer in side.layers if layer.bits is not None]
    found = np.empty(side.num_numbers, held[0].dtype)
    for layer, states in zip(side.layers, held, strict=True):
        found[layer.numbers].reshape(states.shape)[:] = states
    return found


def _write_on_host(side: _Side, slot: int, tokens: slice, pages: Sequence[NDArray[Any]]) -> None:
    """Bit for bit, without another copy on the way."""
    for layer in side.layers:
        if layer.bits is not None:
            target = layer.bits[slot, :, tokens]
            heads, num_tokens, dim = target.shape
            each = num_tokens // len(pages)
            for index, page in enumerate(pages):
                of_layer = page[layer.numbers].view(target.dtype).reshape(heads, each, dim)
                target[:, index * each : (index + 1) * each] = of_layer


def _bits_of(memory: Tensor) -> NDArray[Any] | None:
    if memory.device.type != "cpu" or memory.element_size() not in _BITS:
        return None
    bits: NDArray[Any] = memory.view(_BITS[memory.element_size()]).numpy()
    return bits


def _check(memories: Sequence[tuple[Tensor, Tensor]]) -> None:
    tensors = [tensor for pair in memories for tensor in pair]
    if not tensors:
        raise CannotPage("it keeps no keys and values")
    if strange := {str(tensor.dtype) for tensor in tensors if tensor.dtype not in _TYPES}:
        raise CannotPage(f"it keeps keys and values as {', '.join(sorted(strange))}")
    if len({tensor.dtype for tensor in tensors}) > 1:
        raise CannotPage("its layers keep keys and values in several types")
