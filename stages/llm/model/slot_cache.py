"""Keys and values of every running request, each at its own position of its own slot.

Decides where a forward pass writes and what it reads. Knows no model, no tokens and no requests: `attention_mask` and
positions are made by `forward.py` to agree with a `Window`. Shape of a layer's memory: [num_slots, heads, max_tokens + 1, dim],
allocated at the first forward pass (that is when a layer tells its shape) and never grown.

A beginning that several slots share lies in each of them. Copying 1,472 tokens from one slot into another took 0.3 % of computing them
(SmolLM2 in float32 on one core: 75 ms where the prompt took 24 s, both beside other work; 68 MB), and reads stay in place; memory for
all slots is taken at load in any case. So sharing it page by page would gain next to nothing here, and cost every step a gather.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from stages.device.uploads import uploaded

READ_STEP = 64
"""Reads end at a multiple of this many tokens: few distinct shapes, and aligned memory."""


class Chunk(NamedTuple):
    """`length` tokens of one slot, from position `start`."""

    slot: int
    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Window:
    """One forward pass, as the memory sees it: `batch` rows of `width` tokens, the last of a row being its chunk's last.

    Row i of the batch reads the first `read_length` tokens of slot `first_slot + i`, or of `read_slots[i]` where the slots
    do not lie together. `lines[j]` is the row of the batch that holds chunk j (a batch over neighbouring slots may have
    idle rows between).
    """

    chunks: tuple[Chunk, ...]
    lines: tuple[int, ...]
    batch: int
    width: int
    read_length: int
    first_slot: int
    read_slots: Tensor | None
    write_from: tuple[Tensor, Tensor]  # rows and columns of the batch
    write_to: tuple[Tensor, Tensor]  # slots and positions

    @property
    def is_decode(self) -> bool:
        """One token of every row of the batch, in the order of the chunks: nothing has to be picked out."""
        return self.width == 1 and self.in_order

    @property
    def in_order(self) -> bool:
        """Whether chunk j is row j, and there are no other rows."""
        return self.lines == tuple(range(self.batch))


def window_over(
    chunks: Sequence[Chunk],
    max_tokens: int,
    device: torch.device,
    lines_of: range | None = None,
    *,
    read_at_least: int = 0,
) -> Window:
    """Plans one forward pass over `chunks`, which are in different slots. Reads in place (no copy) where the slots lie
    together, or where `lines_of` says which slots the batch is made of."""
    slots = [chunk.slot for chunk in chunks]
    first, span = min(slots), max(slots) - min(slots) + 1
    together = span <= len(chunks) + len(chunks) // 4
    if lines_of is not None:
        first, span, together = lines_of.start, len(lines_of), True
    lines = tuple(slot - first for slot in slots) if together else tuple(range(len(slots)))
    width = max(chunk.length for chunk in chunks)
    longest = max(read_at_least, *(chunk.end for chunk in chunks))
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    positions: list[int] = []
    for line, chunk in zip(lines, chunks, strict=True):
        rows += [line] * chunk.length
        columns += range(width - chunk.length, width)
        targets += [chunk.slot] * chunk.length
        positions += range(chunk.start, chunk.end)
    index = uploaded(torch.tensor([rows, columns, targets, positions]), device)
    return Window(
        chunks=tuple(chunks),
        lines=lines,
        batch=span if together else len(chunks),
        width=width,
        read_length=min(max_tokens, -(-longest // READ_STEP) * READ_STEP),
        first_slot=first,
        read_slots=None if together else uploaded(torch.tensor(slots), device),
        write_from=(index[0], index[1]),
        write_to=(index[2], index[3]),
    )


class SlotLayer(CacheLayerMixin):
    """One layer's memory. `window` says what the next `update` writes and reads."""

    is_sliding = False

    def __init__(self, num_slots: int, max_tokens: int) -> None:
        super().__init__()
        self.num_slots, self.max_tokens = num_slots, max_tokens
        self.window: Window | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = self._allocated_like(key_states)
        self.values = self._allocated_like(value_states)
        self.is_initialized = True

    def _allocated_like(self, states: Tensor) -> Tensor:
        # One token more than is ever read: no read is contiguous, so a compiled graph meets one layout at all lengths.
        return states.new_zeros(self.num_slots, states.shape[1], self.max_tokens + 1, states.shape[3])

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Takes [batch, heads, width, dim]; returns what the batch may attend to, [batch, heads, read_length, dim]."""
        if self.window is None:
            raise RuntimeError("a slot cache needs a window before a forward pass")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return _write_and_read(self.keys, key_states, self.window), _write_and_read(self.values, value_states, self.window)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self.window.read_length if self.window is not None else self.max_tokens), 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self.max_tokens


def _write_and_read(memory: Tensor, states: Tensor, window: Window) -> Tensor:
    rows, columns = window.write_from
    slots, positions = window.write_to
    memory[slots, :, positions] = states[:, :, 0] if window.is_decode else states[rows, :, columns]
    readable = memory[:, :, : window.read_length]
    if window.read_slots is not None:
        return readable.index_select(0, window.read_slots)
    return readable[window.first_slot : window.first_slot + window.batch]


class SlotCache(Cache):
    """The memory of all layers. Bounded: num_slots x max_tokens tokens, whatever arrives."""

    def __init__(self, num_layers: int, num_slots: int, max_tokens: int) -> None:
        self._slot_layers = [SlotLayer(num_slots, max_tokens) for _ in range(num_layers)]
        self.num_slots, self.max_tokens = num_slots, max_tokens
        super().__init__(layers=list(self._slot_layers))

    def look_through(self, window: Window) -> None:
        """Makes the next forward pass write and read through `window`."""
        for layer in self._slot_layers:
            layer.window = window

    def readable(self, slots: range, length: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of every layer, in place: the first `length` tokens of neighbouring slots. After the first forward
        pass only."""
        lines = slice(slots.start, slots.stop)
        keys = [layer.keys[lines, :, :length] for layer in self._slot_layers]
        return keys, [layer.values[lines, :, :length] for layer in self._slot_layers]

    def memories(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer that has its own, in place: [num_slots, heads, max_tokens + 1, dim]. After the first forward
        pass only."""
        return [(layer.keys, layer.values) for layer in self._slot_layers if layer.is_initialized]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens of one slot into another."""
        for memory in chain.from_iterable(self.memories()):
            memory[target, :, :length] = memory[source, :, :length]

    def wipe(self, slot: int) -> None:
        """Zeroes a slot."""
        for memory in chain.from_iterable(self.memories()):
            memory[slot].zero_()

    @property
    def num_bytes(self) -> int:
        """Bytes of memory held for keys and values."""
        return sum(memory.numel() * memory.element_size() for memory in chain.from_iterable(self.memories()))
