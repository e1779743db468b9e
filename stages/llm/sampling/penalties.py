"""What one request changes about its logits, before a token is drawn: bias and penalties, in vLLM's order.

`logit_bias` is added; then what was asked or answered is made less likely by `repetition_penalty`, and what was answered by
`frequency_penalty` and `presence_penalty`. What a row has to change lies beside its logits and grows by a token a step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.llm.messages import Sampling

_ROOM = 64


class Penalties:
    """One request's. `prompt`: the tokens that it asks with."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        repeated = dict.fromkeys(prompt, 0) if sampling.repetition_penalty != 1 else {}
        self._counts: dict[int, int] = repeated  # of each token that is penalised: how often it was answered
        self._places = {token: place for place, token in enumerate(self._counts)}
        self._on_device: _Penalised | None = None

    @staticmethod
    def of(sampling: Sampling, prompt: Sequence[int]) -> "Penalties | None":
        """None where the request changes nothing."""
        given = sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty
        return Penalties(sampling, prompt) if given or sampling.repetition_penalty != 1 else None

    def apply(self, logits: Tensor) -> None:
        """Changes a row's `logits` [tokens] (float32) in place."""
        if self._on_device is None:
            self._on_device = self._placed(logits.device)
        self._on_device.apply(logits, len(self._places), self._sampling.repetition_penalty)

    def accept(self, token: int) -> None:
        """`token` was added to the answer."""
        self._counts[token] = self._counts.get(token, 0) + 1
        place = self._places.setdefault(token, len(self._places))
        if self._on_device is not None:
            self._on_device.put(place, token, self._amount(token))

    def leave_device(self) -> None:
        """Holds no memory there until it is applied again."""
        self._on_device = None

    def _amount(self, token: int) -> float:
        """What is subtracted, as OpenAI documents it."""
        count = self._counts[token]
        return count * self._sampling.frequency_penalty + (count > 0) * self._sampling.presence_penalty

    def _placed(self, device: torch.device) -> "_Penalised":
        bias = self._sampling.logit_bias
        return _Penalised(
            bias=(
                torch.tensor([*bias], dtype=torch.int64, device=device),
                torch.tensor([*bias.values()], dtype=torch.float32, device=device),
            ),
            tokens=torch.tensor([*self._places], dtype=torch.int64, device=device),
            amounts=torch.tensor([*map(self._amount, self._places)], dtype=torch.float32, device=device),
        )


class _Penalised:
    """`bias`: tokens, and what to add to each. `tokens` and `amounts`: what is penalised, with room for more."""

    def __init__(self, bias: tuple[Tensor, Tensor], tokens: Tensor, amounts: Tensor) -> None:
        self._bias, self._tokens, self._amounts = bias, tokens, amounts

    def apply(self, logits: Tensor, count: int, repetition: float) -> None:
        if len(self._bias[0]):
            logits.index_add_(0, *self._bias)
        if not count:
            return
        tokens = self._tokens[:count]
        values = logits[tokens]
        if repetition != 1:
            # Keskar et al. 2019 (CTRL), for logits of either sign as transformers has it.
            values = torch.where(values > 0, values / repetition, values * repetition)
        logits[tokens] = values - self._amounts[:count]

    def put(self, place: int, token: int, amount: float) -> None:
        if place == len(self._tokens):
            room = max(_ROOM, place)
            self._tokens = torch.cat([self._tokens, self._tokens.new_zeros(room)])
            self._amounts = torch.cat([self._amounts, self._amounts.new_zeros(room)])
        self._tokens[place] = token
        self._amounts[place] = amount
