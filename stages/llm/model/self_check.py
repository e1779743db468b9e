"""Whether a model answers from slots as it answers alone.

A model is served as if it read keys and values, masks and positions from what it is given. Some read them elsewhere: a state of
their own, the length of the cache, the longest position of a batch. So every model reads a few tokens at load, once as the
library has it read a prompt, and once from slots as a running stage would: in chunks, beside others, from a copied beginning,
beside a text far along. Decides what is read and how far the results may differ. Knows no architecture by name.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.contract.errors import ConfigurationError
from stages.contract.faults import Fault, fault_of
from stages.llm.model.decoding.recorded import Record
from stages.llm.model.forward import Forward, PlacedImage
from stages.llm.model.slot_cache import Chunk
from stages.llm.model.slot_table import SlotContents

NUM_TOKENS = 12
WINDOW = 5
"""Windows of attention are narrowed to this many tokens meanwhile, so that a short text has tokens beyond them."""

MAX_DIFFERENCE = {torch.float32: 0.01, torch.float64: 0.01}
MAX_DIFFERENCE_OF_SHORT_TYPES = 0.2
"""Of logits, relative to how much they vary: rounding stays below (SmolLM2 in bfloat16: 0.05), another context lies far above."""

MAX_MOVED = {torch.float32: 1e-3, torch.float64: 1e-3}
MAX_MOVED_OF_SHORT_TYPES = 0.01

log = logging.getLogger("triptych.stages")

_WINDOWS = ("sliding_window", "attention_chunk_size")


_FAR = "beside one that is far longer"


@dataclass(frozen=True, slots=True)
class _Reader:
    """A row of the check: all read the same tokens, each in a slot of its own."""

    contents: SlotContents
    images: tuple[PlacedImage, ...] = ()
    positions: Tensor | None = None
    position_delta: int = 0


@dataclass(frozen=True, slots=True)
class _Check:
    """One model's: `alone` [tokens, vocabulary] are the logits after each token as the library computes them."""

    model: Any
    forward: Forward
    tokens: list[int]
    alone: Tensor

    def passes(self) -> Iterator[tuple[str, float]]:
        """(how the text was read, how far the answer was off), until all has been seen."""
        slots, third = self.forward.slots, max(1, len(self.tokens) // 3)
        yield "in one piece", self._read(Chunk(0, 0, third))
        if len(self.tokens) < NUM_TOKENS:  # a slot of so few tokens holds hardly a text
            return
        yield "in chunks", self._read(Chunk(0, third, 1))
        own = Chunk(0, third + 1, 1)
        yield "beside another", self._read(own, *([Chunk(1, 0, third)] if slots.num_slots > 1 else []))
        last = Chunk(0, own.end, third)
        if slots.num_slots > 1:
            slots.copy_prefix(0, 1, own.end)
            yield "after a copied beginning", self._read(Chunk(1, own.end, 1), last)
            last = Chunk(1, own.end + 1, third)
        yield _FAR, self._read(last, read_at_least=slots.max_tokens)
        if any(_ropes(self.model.config.get_text_config())):
            yield _FAR, self._changed_by_length(slots.max_tokens)

    def _changed_by_length(self, max_tokens: int) -> float:
        """How far the answer moves where a row beside it stands at the end of a slot. The two batches have one shape, so next to
        nothing is put down to rounding, and little is enough: a dozen tokens show little of what a long text would."""
        near, far = (_beside(self.model, self.tokens, place) for place in (len(self.tokens), max_tokens))
        moved = _difference(far, near)
        return math.inf if moved > MAX_MOVED.get(self.forward.dtype, MAX_MOVED_OF_SHORT_TYPES) else moved

    def _read(self, *chunks: Chunk, read_at_least: int = 0) -> float:
        reader = _Reader(SlotContents("", self.tokens))
        found = self.forward.run([reader] * len(chunks), chunks, read_at_least=read_at_least)
        return max(_difference(logits, self.alone[chunk.end - 1]) for logits, chunk in zip(found, chunks, strict=True))


def check_answers(model: Any, forward: Forward) -> None:
    """Raises `ConfigurationError` where `model` would answer otherwise from the slots of `forward` than alone. Takes six or
    seven passes over a dozen tokens or fewer. What it leaves in the slots is nobody's."""
    tokens = _ordinary_tokens(model, min(NUM_TOKENS, forward.slots.max_tokens))
    what = type(model).__name__
    with torch.inference_mode(), _narrowed(model.config.get_text_config()):
        try:
            alone = _alone(model, tokens)
            if not alone.isfinite().any(-1).all():
                return  # its answers fail, each for itself, and say why
            differences = list(_Check(model, forward, tokens, alone).passes())
        except Exception as error:  # any of a hundred architectures, each in its own way
            if fault_of(error) is not Fault.ITEM:
                raise  # nothing that the model is to blame for
            raise ConfigurationError(f"{what} cannot be served from slots: {_short(error)}") from error
    worst = MAX_DIFFERENCE.get(forward.dtype, MAX_DIFFERENCE_OF_SHORT_TYPES)
    for how, difference in differences:
        if not difference <= worst:
            raise ConfigurationError(_differs(model, how, difference))


def record_decode(forward: Forward, record: Record) -> None:
    """Has `forward` replay its steps of one token a row. Where that can't be done, or gives something else, they are computed as
    before, and the log says why. Leaves in the slots what is nobody's."""
    with torch.inference_mode():
        computed = _ends(forward)
        try:
            forward.record(record)
            difference = _difference(_ends(forward), computed)
        except Exception as error:  # as above
            forward.forget_recorded()
            log.warning("decoding steps are not replayed: %s", _short(error))
            return
    if not difference <= MAX_DIFFERENCE.get(forward.dtype, MAX_DIFFERENCE_OF_SHORT_TYPES):
        forward.forget_recorded()
        log.warning("decoding steps are not replayed: their logits are %.0f %% off", 100 * difference)


def _ends(forward: Forward) -> Tensor:
    """Logits of a token that stands first in the first and the last slot, and of one that stands last there."""
    num_slots, max_tokens = forward.slots.num_slots, forward.slots.max_tokens
    reader, slots = _Reader(SlotContents("", [0] * max_tokens)), sorted({0, num_slots - 1})
    found = [forward.run([reader] * len(slots), [Chunk(slot, place, 1) for slot in slots]) for place in (0, max_tokens - 1)]
    return torch.cat(found)


def _differs(model: Any, how: str, difference: float) -> str:
    ropes = sorted(_ropes(model.config.get_text_config()))
    why = f": its rope ({', '.join(kind for kind, _ in ropes)}) depends on length" if ropes and how == _FAR else ""
    limits = [limit for _, limit in ropes if limit is not None]
    off = "" if math.isinf(difference) else f" (logits {difference:.0%} off)"
    advice = f"; llm.max_context_tokens of at most {min(limits)} may do" if why and limits else ""
    return (
        f"{type(model).__name__} cannot be served from slots: its answer to a text is another{off} when it is "
        f"read {how}{why}{advice}"
    )


def _ropes(config: Any) -> Iterator[tuple[str, int | None]]:
    """(type, the length up to which it is as any other) of every rope that is not the plain one."""
    given = getattr(config, "rope_parameters", None) or {}
    for rope in [given, *(value for value in given.values() if isinstance(value, Mapping))]:
        if (kind := str(rope.get("rope_type", "default"))) != "default":
            yield kind, rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)


def _beside(model: Any, tokens: list[int], end: int) -> Tensor:
    """Logits [vocabulary] after the text, read in one batch with the same text, that ends at place `end`."""
    ids = torch.tensor([tokens, tokens], device=model.get_input_embeddings().weight.device)
    places = torch.arange(len(tokens), device=ids.device)
    positions = torch.stack([places, places + end - len(tokens)])
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False).logits
    return logits[0, -1]


def _alone(model: Any, tokens: list[int]) -> Tensor:
    """Logits [tokens, vocabulary] of the whole text, as `generate` would have the model read a prompt."""
    ids = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)
    inputs = model.prepare_inputs_for_generation(
        ids, attention_mask=torch.ones_like(ids), use_cache=False, is_first_iteration=True
    )
    logits: Tensor = model(**inputs).logits[0]
    if len(logits) != len(tokens):
        raise ValueError(f"{len(logits)} answers for {len(tokens)} tokens")
    return logits


def _difference(found: Tensor, right: Tensor) -> float:
    """Relative to how much the right ones vary. Tokens that the model rules out altogether don't count."""
    finite = right.isfinite()
    counts = finite & (right > right[finite].max() - 1e4)
    found, right = found[counts].double(), right[counts].double()
    return float((found - right).norm() / ((right - right.mean()).norm() + torch.finfo(torch.float32).tiny))


def _ordinary_tokens(model: Any, count: int) -> list[int]:
    """Of the whole vocabulary, without those that the configuration knows by name."""
    config, text = model.config, model.config.get_text_config()
    given = [value for owner in (config, text) for name, value in vars(owner).items() if name.endswith("token_id")]
    named = {token for value in given for token in (value if isinstance(value, list | tuple) else [value])}
    num_tokens = model.get_input_embeddings().weight.shape[0]
    shuffled = torch.randperm(num_tokens, generator=torch.Generator().manual_seed(0)).tolist()
    found = [token for token in shuffled[: 10 * count] if token not in named] or shuffled
    return (found * count)[:count]


@contextmanager
def _narrowed(config: Any) -> Iterator[None]:
    before = {name: value for name in _WINDOWS if isinstance(value := vars(config).get(name), int) and value > WINDOW}
    try:
        for name in before:
            setattr(config, name, WINDOW)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {''.join(str(error).strip().splitlines()[:1])}"
