"""What requests change about their logits, before a token is drawn: bias and penalties, in vLLM's order.

`logit_bias` is added; then what was asked or answered is made less likely by `repetition_penalty`, and what was answered by
`frequency_penalty` and `presence_penalty`. What a row has to change is kept in this machine's memory and grows by a token a step;
all rows' changes are applied together.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.device.uploads import uploaded
from stages.llm.messages import Sampling

_ROOM = 64
UNLIKELY = 1e9
"""What an end token loses while the answer is not to end: any other is likelier, but where nothing else may follow it is still said."""

Changes = NDArray[np.int64]
"""[n, 2], of a token each: where it stands, and (two float32 in the place of one int64, so that all of it goes to a device in one
piece) what is subtracted (of a bias: added), and what it is divided or multiplied by."""


class Penalties:
    """One request's. `prompt`: the tokens that it asks with; `end_tokens`: those that end the answer, which it is not to do yet."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], end_tokens: Collection[int] = ()) -> None:
        self._sampling = sampling
        self._penalises = bool(sampling.frequency_penalty or sampling.presence_penalty or sampling.repetition_penalty != 1)
        repeated = dict.fromkeys(prompt, 0) if sampling.repetition_penalty != 1 else {}
        self._counts: dict[int, int] = repeated  # of each token that is penalised: how often it was answered
        self._places = {token: place for place, token in enumerate(self._counts)}
        self._bias = _changes([*sampling.logit_bias], [*sampling.logit_bias.values()])
        self._num_before_end = sampling.min_tokens if end_tokens else 0
        self._no_end = np.concatenate([self._bias, _changes([*end_tokens], -UNLIKELY)])
        self._penalised = _changes([*self._places], 0.0, sampling.repetition_penalty)
        self._amounts = _numbers(self._penalised)[:, 0]

    @staticmethod
    def of(sampling: Sampling, prompt: Sequence[int], end_tokens: Collection[int] = ()) -> "Penalties | None":
        """None where the request changes nothing."""
        changes = bool(sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty)
        given = changes or bool(sampling.min_tokens and end_tokens)
        return Penalties(sampling, prompt, end_tokens) if given or sampling.repetition_penalty != 1 else None

    @property
    def bias(self) -> Changes:
        return self._no_end if self._num_before_end > 0 else self._bias

    @property
    def penalised(self) -> Changes:
        return self._penalised[: len(self._places)]

    @property
    def repeats(self) -> bool:
        """Whether `repetition` of what is penalised is other than 1."""
        return self._sampling.repetition_penalty != 1

    def accept(self, token: int) -> None:
        """`token` was added to the answer."""
        self._num_before_end -= 1
        if not self._penalises:
            return
        count = self._counts.get(token, 0) + 1
        self._counts[token] = count
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._penalised):
            more = _changes([0] * max(_ROOM, place), 0.0, self._sampling.repetition_penalty)
            self._penalised = np.concatenate([self._penalised, more])
            self._amounts = _numbers(self._penalised)[:, 0]
        self._penalised[place, 0] = token
        # As OpenAI documents it.
        self._amounts[place] = count * self._sampling.frequency_penalty + self._sampling.presence_penalty


def apply_penalties(logits: Tensor, penalties: Sequence[Penalties | None]) -> None:
    """Changes `logits` [rows, tokens] (float32, contiguous) in place, each row by its own. Nothing is read back."""
    flat, size = logits.view(-1), logits.shape[-1]
    given = [(row * size, one) for row, one in enumerate(penalties) if one is not None]
    biases = [(first, one.bias) for first, one in given if len(one.bias)]
    penalised = [(first, one.penalised) for first, one in given if len(one.penalised)]
    num_biases = sum(len(changes) for _, changes in biases)
    if not biases and not penalised:
        return
    index, amount, repetition = _on_device([*biases, *penalised], logits.device)
    if biases:
        flat.index_add_(0, index[:num_biases], amount[:num_biases])
    if not penalised:
        return
    index, amount, repetition = (column[num_biases:] for column in (index, amount, repetition))
    values = flat[index]
    if any(one.repeats for _, one in given):
        # Keskar et al. 2019 (CTRL), for logits of either sign as transformers has it.
        values = torch.where(values > 0, values / repetition, values * repetition)
    flat[index] = values - amount


def _changes(tokens: Sequence[int], amounts: Sequence[float] | float, repetition: float = 1.0) -> Changes:
    found = np.empty((len(tokens), 2), np.int64)
    found[:, 0] = tokens
    _numbers(found)[:, 0], _numbers(found)[:, 1] = amounts, repetition
    return found


def _numbers(changes: Changes) -> NDArray[np.float32]:
    """[n, 2]: amounts and repetitions."""
    return changes[:, 1:].view(np.float32)


def _on_device(changes: Sequence[tuple[int, Changes]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of all changes, each one's indices beginning where its row does."""
    together = np.concatenate([one for _, one in changes])
    together[:, 0] += np.repeat([first for first, _ in changes], [len(one) for _, one in changes])
    there = uploaded(torch.from_numpy(together), device)
    numbers = there[:, 1:].view(torch.float32)
    return there[:, 0], numbers[:, 0], numbers[:, 1]
