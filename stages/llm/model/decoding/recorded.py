"""The step that adds one token to every answer, recorded at load and replayed: on a GPU, as a CUDA graph.

A GPU is done with each of the step's several hundred kernels before Python has launched the next, so launching them, not reading the
weights, is what a step would take. A recorded step is one launch. It computes fixed sizes at fixed addresses: the first `lines` slots,
read up to `length` tokens, for a few of each, and whichever is just large enough is replayed. Slots in between that have no token to
add ride along, and write where nobody reads.

Decides the sizes, what such a line computes, and which steps can be replayed. Knows neither requests nor CUDA
(`stages/device/cuda_graphs.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.device.uploads import uploaded
from stages.llm.model.decoding.grouped_heads import with_grouped_heads
from stages.llm.model.model_call import Masks, last_logits
from stages.llm.model.slot_cache import Chunk, SlotCache, Window
from stages.llm.model.slot_table import SlotContents

LEAST_LINES = 2
"""One takes as long, and to a compiler is a program of its own."""

LEAST_LENGTH = 256
"""Reading fewer tokens saves next to nothing."""

TOKEN, PLACE, PICKED, POSITION = range(4)
"""Rows of what a step is given, a column a line: the line's token, where in its slot that is written, which lines are asked for (in
order, from the first column on), and its position; where a model's positions are three, three rows of them."""


class Record(Protocol):
    """Runs `compute`, which allocates nothing that outlives it but its result, and gives what does the same again on what lies in the
    same places then; the result is overwritten the next time. Raises whatever stands in the way."""

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]: ...


class Step(Protocol):
    """A step of one token a line: tokens [lines, 1], positions ([3,] lines, 1), masks of those, and a window over neighbouring lines. A
    line whose place is behind all that is read leaves nothing that matters. Logits [lines, vocabulary]."""

    def __call__(self, ids: Tensor, positions: Tensor, masks: Masks, window: Window, /) -> Tensor: ...


class Answering(Protocol):
    """What a step must know of a row (see `LlmRow`)."""

    @property
    def contents(self) -> SlotContents: ...
    @property
    def positions(self) -> Tensor | None: ...
    @property
    def position_delta(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Recorded:
    given: Tensor
    replay: Callable[[], Tensor]


def sizes(most: int, least: int = 1) -> tuple[int, ...]:
    """`least` and its doubles below `most`, and that."""
    found = [least]
    while found[-1] < most:
        found.append(2 * found[-1])
    return (*found[:-1], most)


def enough(sizes: Sequence[int], wanted: int) -> int:
    """The smallest that holds so many. One does."""
    return next(size for size in sizes if size >= wanted)


class LaunchedStep:
    """A `Step` of `model`, one kernel after another."""

    def __init__(self, model: Any, slots: SlotCache) -> None:
        self._model, self._slots = with_grouped_heads(model), slots

    def __call__(self, ids: Tensor, positions: Tensor, masks: Masks, window: Window, /) -> Tensor:
        self._slots.look_through(window)
        return last_logits(self._model, {"input_ids": ids}, positions, masks, self._slots)


class RecordedDecode:
    """Of one model over its slots on `device`, after their first forward pass. `masks`: as `Forward` makes them, of places [lines, 1] and
    a length. `three_positions`: the model's positions are [3, lines, 1]."""

    def __init__(
        self,
        step: Step,
        slots: SlotCache,
        masks: Callable[[Tensor, int], Masks],
        device: torch.device,
        *,
        three_positions: bool,
        record: Record,
    ) -> None:
        self._step, self._slots, self._masks, self._device, self._record = step, slots, masks, device, record
        self._num_positions = 3 if three_positions else 1
        self._lines, self._lengths = sizes(slots.num_slots, LEAST_LINES), sizes(slots.max_tokens, LEAST_LENGTH)
        self._recorded: dict[tuple[int, int], _Recorded] = {}

    def record(self) -> None:
        """All sizes, the largest first: what the others allocate fits into what that took. Raises what stands in the way."""
        for length in reversed(self._lengths):
            for lines in reversed(self._lines):
                given = self._idle(lines).to(self._device)
                compute = self._compute(given, length)
                self._recorded[lines, length] = _Recorded(given, self._record(compute))

    def run(self, rows: Sequence[Answering], chunks: Sequence[Chunk], *, read_at_least: int = 0) -> Tensor | None:
        """Logits [rows, vocabulary] for the token after each chunk, until the next call; None where it is no such step."""
        if any(chunk.length != 1 or _stands_within(row, chunk) for row, chunk in zip(rows, chunks, strict=True)):
            return None
        lines = enough(self._lines, 1 + max(chunk.slot for chunk in chunks))
        length = enough(self._lengths, max(read_at_least, *(chunk.end for chunk in chunks)))
        given = self._idle(lines)
        numbers = given.numpy()
        for column, (row, chunk) in enumerate(zip(rows, chunks, strict=True)):
            numbers[TOKEN, chunk.slot] = row.contents.tokens[chunk.start]
            numbers[PLACE, chunk.slot] = chunk.start
            numbers[PICKED, column] = chunk.slot
            numbers[POSITION:, chunk.slot] = chunk.start + row.position_delta
        recorded = self._recorded[lines, length]
        recorded.given.copy_(uploaded(given, self._device))
        logits = recorded.replay()
        return logits[recorded.given[PICKED, : len(chunks)]]

    def _idle(self, lines: int) -> Tensor:
        """What lines without a token are given: they write behind all that is ever read of a slot."""
        given = torch.zeros(POSITION + self._num_positions, lines, dtype=torch.long)
        given[PLACE] = self._slots.max_tokens
        return given

    def _compute(self, given: Tensor, length: int) -> Callable[[], Tensor]:
        lines = given.shape[1]
        every, first = torch.arange(lines, device=self._device), torch.zeros(lines, dtype=torch.long, device=self._device)
        places = given[PLACE]
        window = Window(
            chunks=(),
            lines=tuple(range(lines)),
            batch=lines,
            width=1,
            read_length=length,
            first_slot=0,
            read_slots=None,
            write_from=(every, first),
            write_to=(every, places),
        )
        positions = given[POSITION:, :, None] if self._num_positions > 1 else given[POSITION][:, None]

        def compute() -> Tensor:
            return self._step(given[TOKEN][:, None], positions, self._masks(places[:, None], length), window)

        return compute


def _stands_within(row: Answering, chunk: Chunk) -> bool:
    """Whether the token is one of a prompt whose positions are not just its place and something more."""
    return row.positions is not None and chunk.start < row.positions.shape[1]
