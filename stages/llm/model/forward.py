"""One forward pass of the model over chunks of several requests, each at its own place of its own slot.

Decides the model's inputs: tokens or embeddings with the images' features in place, positions, and who may attend to
what. Knows no sampling and no schedule. Rows are padded on the left, so that every row's last token is in the last column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.device.packed_linear import EXPECTED_ROWS, pack_linears
from stages.device.uploads import uploaded
from stages.llm.model.decoding.compiled import CompiledDecode, neighbours
from stages.llm.model.decoding.recorded import LaunchedStep, Record, RecordedDecode
from stages.llm.model.model_call import Masks, last_logits, logits_behind
from stages.llm.model.slot_cache import READ_STEP, Chunk, SlotCache, Window, window_over
from stages.llm.model.slot_table import SlotContents
from stages.llm.model.windows import Windows


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image's features [length, width], on the device, standing at `offset` of the prompt."""

    offset: int
    features: Tensor

    @property
    def end(self) -> int:
        return self.offset + len(self.features)


class Reader(Protocol):
    """What a pass must know of a row (see `LlmRow`)."""

    @property
    def contents(self) -> SlotContents: ...
    @property
    def images(self) -> tuple[PlacedImage, ...]: ...
    @property
    def positions(self) -> Tensor | None: ...
    @property
    def position_delta(self) -> int: ...


class Forward:
    """A model and its slots. `run` writes the chunks' keys and values and returns the logits after each chunk's last token.

    `three_positions`: the model's positions are [3, batch, width] (M-RoPE), for text alone too."""

    def __init__(self, model: Any, num_slots: int, max_tokens: int, *, three_positions: bool = False) -> None:
        config = model.config.get_text_config()
        self._model = model
        self._device: torch.device = model.get_input_embeddings().weight.device
        self._dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self._embed = model.get_input_embeddings()
        self._config = config
        self._three_positions = three_positions
        self._decode: CompiledDecode | None = None
        self._recorded: RecordedDecode | None = None
        self.slots = SlotCache(config.num_hidden_layers, num_slots, max_tokens)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    def compile(self) -> None:
        """From now on steps of one token a row go through a compiled graph, where their slots lie near each other. After the
        first pass only. Raises `ConfigurationError`."""
        decode = CompiledDecode(self._model, self.slots)
        places = torch.zeros(min(EXPECTED_ROWS, self.slots.num_slots), 1, dtype=torch.long, device=self._device)
        positions = places.repeat(3, 1, 1) if self._three_positions else places
        decode.compile(positions, self._masks(places, min(READ_STEP, self.slots.max_tokens)))
        self._decode = decode
        pack_linears(self._model)  # for prompts

    def record(self, record: Record) -> None:
        """From now on steps of one token a row are replayed, where they can be. After the first pass only. Raises what stands in the
        way, and then nothing has changed."""
        step = LaunchedStep(self._model, self.slots) if self._decode is None else self._decode.run
        three = self._three_positions
        recorded = RecordedDecode(step, self.slots, self._masks, self._device, three_positions=three, record=record)
        recorded.record()
        self._recorded = recorded

    def forget_recorded(self) -> None:
        """All steps are computed from now on."""
        self._recorded = None

    def run(self, rows: Sequence[Reader], chunks: Sequence[Chunk], *, read_at_least: int = 0) -> Tensor:
        """Logits [rows, vocabulary] for the token after each chunk. Each chunk is of the row at its place, in different
        slots. `read_at_least`: as many tokens of a slot are read, as beside a row that is so long."""
        if self._recorded is not None and not _sees(rows, chunks):
            replayed = self._recorded.run(rows, chunks, read_at_least=read_at_least)
            if replayed is not None:
                return replayed
        lines = neighbours(chunks, self.slots.num_slots) if self._decode is not None else None
        window = window_over(chunks, self.slots.max_tokens, self._device, lines, read_at_least=read_at_least)
        tokens, positions, masks = self._inputs(rows, window)
        if self._decode is not None and lines is not None and "input_ids" in tokens:
            logits = self._decode.run(tokens["input_ids"], positions, masks, window)
        else:
            self.slots.look_through(window)
            logits = last_logits(self._model, tokens, positions, masks, self.slots)
        return logits if window.in_order else logits[uploaded(torch.tensor(window.lines), self._device)]

    def run_whole(self, rows: Sequence[Reader], chunks: Sequence[Chunk]) -> Tensor:
        """As `run`, but logits [rows, width, vocabulary] for the token after each of a chunk's tokens, the last of which stands in the
        last column. `width` is the longest chunk's."""
        window = window_over(chunks, self.slots.max_tokens, self._device)
        tokens, positions, masks = self._inputs(rows, window)
        self.slots.look_through(window)
        logits = logits_behind(self._model, tokens, positions, masks, self.slots, num_last=window.width)
        return logits if window.in_order else logits[list(window.lines)]

    def _inputs(self, rows: Sequence[Reader], window: Window) -> tuple[dict[str, Tensor], Tensor, Masks]:
        places = torch.zeros(window.batch, window.width, dtype=torch.long, device=self._device)
        places[window.write_from] = window.write_to[1]
        tokens, masks = self._tokens(rows, window), self._masks(places, window.read_length)
        return tokens, self._positions(rows, window, places), masks

    def _tokens(self, rows: Sequence[Reader], window: Window) -> dict[str, Tensor]:
        given: list[int] = []
        for row, chunk in zip(rows, window.chunks, strict=True):
            given += row.contents.tokens[chunk.start : chunk.end]
        ids = torch.zeros(window.batch, window.width, dtype=torch.long, device=self._device)
        ids[window.write_from] = uploaded(torch.tensor(given), self._device)
        if not _sees(rows, window.chunks):
            return {"input_ids": ids}
        embeddings = self._embed(ids)
        for row, chunk, line in zip(rows, window.chunks, window.lines, strict=True):
            _put_features(embeddings[line], row, chunk)
        return {"inputs_embeds": embeddings}

    def _masks(self, places: Tensor, read_length: int) -> Masks:
        """What each token may attend to, as a number to add to the scores: [batch, 1, width, read_length]."""
        keys = torch.arange(read_length, device=self._device)
        allowed = Windows.of(self._config).allowed(places[:, None, :, None], keys)
        if isinstance(allowed, Tensor):
            return self._additive(allowed)
        return {name: self._additive(seen) for name, seen in allowed.items()}

    def _additive(self, allowed: Tensor) -> Tensor:
        return torch.zeros(allowed.shape, dtype=self._dtype, device=self._device).masked_fill_(
            ~allowed, torch.finfo(self._dtype).min
        )

    def _positions(self, rows: Sequence[Reader], window: Window, places: Tensor) -> Tensor:
        if not self._three_positions and all(row.positions is None for row in rows):
            return places
        positions = places[None].repeat(3, 1, 1)
        for row, chunk, line in zip(rows, window.chunks, window.lines, strict=True):
            if row.positions is not None:
                positions[:, line, window.width - chunk.length :] = _row_positions(row, row.positions, chunk)
        return positions


def _sees(rows: Sequence[Reader], chunks: Sequence[Chunk]) -> bool:
    """Whether an image may stand in any of the chunks."""
    return any(image.end > chunk.start for row, chunk in zip(rows, chunks, strict=True) for image in row.images)


def _row_positions(row: Reader, of_prompt: Tensor, chunk: Chunk) -> Tensor:
    """[3, length]: the prompt's own positions, and the index plus the delta for what comes after it."""
    known = of_prompt[:, chunk.start : chunk.end]
    after = torch.arange(chunk.start + known.shape[1], chunk.end, device=of_prompt.device) + row.position_delta
    return torch.cat([known, after.expand(3, -1)], dim=1)


def _put_features(embeddings: Tensor, row: Reader, chunk: Chunk) -> None:
    """Overwrites, in one line of the batch [width, dim], the placeholders of the chunk with their features."""
    padding = len(embeddings) - chunk.length
    for image in row.images:
        begin, end = max(image.offset, chunk.start), min(image.end, chunk.end)
        if begin < end:
            target = slice(padding + begin - chunk.start, padding + end - chunk.start)
            embeddings[target] = image.features[begin - image.offset : end - image.offset]
