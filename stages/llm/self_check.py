"""Whether a model answers from slots as it answers alone.

A model is served as if it read keys and values, masks and positions from what it is given. Some read them elsewhere: a state of
their own, the length of the cache, the longest position of a batch. So every model reads a few tokens at load, once as the
library has it read a prompt, and once as a running stage would: in chunks, beside others, from a copied beginning, beside a row
far along. Decides what is read and how far the results may differ. Knows no architecture by name.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.errors import ConfigurationError
from stages.llm.forward import Forward
from stages.llm.prefix import Occupant
from stages.llm.row import PlacedImage
from stages.llm.slot_cache import Chunk

NUM_TOKENS = 12
WINDOW = 5
"""Windows of attention are narrowed to this many tokens meanwhile, so that a short text has tokens beyond them."""

MAX_DIFFERENCE = {torch.float32: 0.01, torch.float64: 0.01}
MAX_DIFFERENCE_OF_SHORT_TYPES = 0.25
"""Of logits, relative to how much they vary: rounding stays far below, another context lies far above."""

_WINDOWS = ("sliding_window", "attention_chunk_size")


@dataclass(slots=True)
class _Reader:
    """A row of the check: it reads the same tokens in a slot of its own."""

    occupant: Occupant
    images: tuple[PlacedImage, ...] = ()
    positions: Tensor | None = None
    position_delta: int = 0


@dataclass(slots=True)
class _Check:
    """One model's: `alone` [tokens, vocabulary] are the logits after each token as the library computes them."""

    forward: Forward
    tokens: list[int]
    alone: Tensor
    readers: list[_Reader] = field(init=False)

    def __post_init__(self) -> None:
        self.readers = [_Reader(Occupant("", self.tokens)) for _ in range(self.forward.slots.num_slots)]

    def read(self, *chunks: Chunk) -> float:
        """One forward pass over the chunks. How far the first one's logits, and those of all at their right places, are from
        the model's own."""
        found = self.forward.run([self.readers[chunk.slot] for chunk in chunks], chunks)
        right = [self.readers[chunk.slot].position_delta == 0 for chunk in chunks]
        return max(
            _difference(logits, self.alone[chunk.end - 1])
            for logits, chunk, counts in zip(found, chunks, right, strict=True)
            if counts
        )


def check_answers(model: Any, max_tokens: int, *, three_positions: bool = False) -> None:
    """Raises `ConfigurationError` where `model` would answer otherwise from slots of `max_tokens` than alone. Takes six passes
    over at most a dozen tokens."""
    what = type(model).__name__
    length = min(NUM_TOKENS, max_tokens)
    tokens = _ordinary_tokens(model, length)
    with torch.inference_mode(), _narrowed(model.config.get_text_config()):
        try:
            alone = _alone(model, tokens)
        except Exception as error:  # any of a hundred architectures, each in its own way
            raise ConfigurationError(f"{what} cannot be checked before it is served: {_short(error)}") from error
        if not alone.isfinite().any(-1).all():
            return  # its answers fail, each for itself, and say why
        forward = Forward(model, 3, length, three_positions=three_positions)
        worst = MAX_DIFFERENCE.get(forward.dtype, MAX_DIFFERENCE_OF_SHORT_TYPES)
        passes = _passes(_Check(forward, tokens, alone), max_tokens)
        try:
            for how, difference in passes:
                if not difference <= worst:
                    raise ConfigurationError(_differs(model, how, difference))
        except ConfigurationError:
            raise
        except Exception as error:  # as above
            raise ConfigurationError(f"{what} cannot be served from slots: {_short(error)}") from error


def _passes(check: _Check, max_tokens: int) -> Iterator[tuple[str, float]]:
    """(how the tokens were read, how far the answer was off)"""
    length = len(check.tokens)
    third = max(1, length // 3)
    if length < 6:
        yield "in one piece", check.read(Chunk(0, 0, length))
        return
    yield "in one piece", check.read(Chunk(0, 0, third))
    yield "in chunks", check.read(Chunk(0, third, 1))
    yield "beside another text", check.read(Chunk(0, third + 1, 1), Chunk(1, 0, third))
    check.forward.slots.copy_prefix(0, 2, third)
    yield "after a copied beginning", check.read(Chunk(2, third, third), Chunk(1, third, 1))
    far = check.readers[1]
    far.positions = torch.empty((3, 0) if check.forward.three_positions else 0, dtype=torch.long, device=check.forward.device)
    far.position_delta = max_tokens - 1 - 2 * third  # its last token stands at the very end of a slot
    yield "beside a text that is far longer", check.read(Chunk(2, 2 * third, 2), Chunk(1, third + 1, third))


def _differs(model: Any, how: str, difference: float) -> str:
    config = model.config.get_text_config()
    by_length = sorted({name for name, _ in _ropes_by_length(config)})
    if by_length and how == "beside a text that is far longer":
        least = min(limit for _, limit in _ropes_by_length(config))
        return (
            f"{type(model).__name__}: its rope ({', '.join(by_length)}) depends on how long the longest text beside it is; "
            f"llm.max_context_tokens may be at most the {least} tokens that the model was first made for"
        )
    return (
        f"{type(model).__name__} answers otherwise when it reads a text {how} (its logits are off by {difference:.0%}), so it "
        "cannot be served from slots"
    )


def _ropes_by_length(config: Any) -> Iterator[tuple[str, int]]:
    """(type, the length up to which it is as others are) of what may depend on length, for the message."""
    given = getattr(config, "rope_parameters", None) or {}
    for rope in [given, *(value for value in given.values() if isinstance(value, Mapping))]:
        kind = str(rope.get("rope_type", "default"))
        limit = rope.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
        if kind != "default" and limit is not None:
            yield kind, int(limit)


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
    counts = right > right.max() - 1e4
    found, right = found[counts].double(), right[counts].double()
    return float((found - right).norm() / ((right - right.mean()).norm() + torch.finfo(torch.float32).tiny))


def _ordinary_tokens(model: Any, count: int) -> list[int]:
    """Of the whole vocabulary, without those that the configuration knows by name."""
    config, text = model.config, model.config.get_text_config()
    named = {value for owner in (config, text) for name, value in vars(owner).items() if name.endswith("token_id")}
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
