"""The next token of every row, chosen for all rows together.

Decides how OpenAI's sampling parameters change a distribution: `logit_bias` and penalties first, then temperature, then top_p.
Log probabilities are of the model's own distribution, before any of that. Knows no model, no text and no slots.

A row draws one number a token from its own stream, so what a request gets depends on its seed and its logits alone, never on
what shares the batch.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.stage import Sampling

NUCLEUS_CANDIDATES = 256
"""top_p looks among this many likeliest tokens first, and sorts the whole vocabulary only where they are not enough."""


class Chooser:
    """One request's sampling: its parameters, its random numbers and what it has generated so far."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.counts: Counter[int] = Counter()
        self._random = random.Random(sampling.seed)
        self._penalised = bool(sampling.frequency_penalty or sampling.presence_penalty)

    def draw(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    def accept(self, token: int) -> None:
        if self._penalised:
            self.counts[token] += 1

    def adjustments(self) -> dict[int, float]:
        """What to add to which logit. Penalties as OpenAI documents them: count x frequency + (count > 0) x presence."""
        found = dict(self.sampling.logit_bias)
        for token, count in self.counts.items():
            penalty = count * self.sampling.frequency_penalty + self.sampling.presence_penalty
            found[token] = found.get(token, 0.0) - penalty
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """`failed`: the logits were not numbers. `logprob` and `top` (token, logprob; likeliest first) where asked for."""

    token: int
    failed: bool = False
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """One choice a row from `logits` [rows, vocabulary], of any float dtype. Remembers the choices for the penalties."""
    logits = logits.float()
    adjusted = _adjusted(logits, choosers)
    highest, likeliest = adjusted.max(dim=-1)
    failed = (~torch.isfinite(highest)).tolist()
    tokens = likeliest.tolist()
    drawn = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0 and not failed[row]]
    if drawn:
        for row, token in zip(drawn, _drawn(adjusted, drawn, choosers), strict=True):
            tokens[row] = token
    for chooser, token in zip(choosers, tokens, strict=True):
        chooser.accept(token)
    return _with_logprobs(logits, tokens, failed, choosers)


def _adjusted(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    rows: list[int] = []
    tokens: list[int] = []
    amounts: list[float] = []
    for row, chooser in enumerate(choosers):
        if chooser.counts or chooser.sampling.logit_bias:
            adjustments = chooser.adjustments()
            rows += [row] * len(adjustments)
            tokens += adjustments.keys()
            amounts += adjustments.values()
    if not rows:
        return logits
    index = torch.tensor([rows, tokens], device=logits.device)
    return logits.index_put(
        (index[0], index[1]), torch.tensor(amounts, dtype=logits.dtype, device=logits.device), accumulate=True
    )


def _drawn(adjusted: Tensor, rows: list[int], choosers: Sequence[Chooser]) -> list[int]:
    """Tokens of `rows`, each the one under which the row's random number falls in its distribution."""
    settings = [choosers[row].sampling for row in rows]
    parameters = [(one.temperature, one.top_p, choosers[row].draw()) for row, one in zip(rows, settings, strict=True)]
    temperature, top_p, uniform = torch.tensor(parameters, dtype=torch.float64, device=adjusted.device).unbind(1)
    # A difference of logits, scaled: a temperature close to 0 must become greedy, not infinite.
    scaled = adjusted[rows].double()
    probabilities = torch.softmax((scaled - scaled.amax(dim=-1, keepdim=True)) / temperature[:, None], dim=-1)
    # The order of the tokens decides which one a number falls on, so it must not depend on what the other rows ask for.
    cut = [line for line, one in enumerate(settings) if one.top_p < 1]
    tokens = _under(probabilities, uniform)
    if cut:
        mass, candidates = _nucleus(probabilities[cut], top_p[cut])
        tokens[cut] = candidates.gather(1, _under(mass, uniform[cut])[:, None])[:, 0]
    found: list[int] = tokens.tolist()
    return found


def _nucleus(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor]:
    """The fewest likeliest tokens whose probabilities reach `top_p`: (probabilities, others 0; tokens), both [rows,
    candidates]."""
    size = probabilities.shape[-1]
    mass, candidates = probabilities.topk(min(NUCLEUS_CANDIDATES, size), dim=-1)
    if bool((mass.sum(dim=-1) < top_p).any()):
        mass, candidates = probabilities.sort(dim=-1, descending=True)
    before = mass.cumsum(dim=-1) - mass
    return torch.where(before < top_p[:, None], mass, 0.0), candidates


def _under(mass: Tensor, uniform: Tensor) -> Tensor:
    """For each row the first index at which the cumulated mass exceeds that share of the whole."""
    cumulated = mass.cumsum(dim=-1)
    target = uniform[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, target, right=True)[:, 0].clamp(max=mass.shape[-1] - 1)


def _with_logprobs(logits: Tensor, tokens: list[int], failed: list[bool], choosers: Sequence[Chooser]) -> list[Choice]:
    choices = [Choice(token, bad) for token, bad in zip(tokens, failed, strict=True)]
    wanted = [row for row, chooser in enumerate(choosers) if chooser.sampling.logprobs is not None]
    if not wanted:
        return choices
    logprobs = torch.log_softmax(logits[wanted], dim=-1)
    most = max(choosers[row].sampling.logprobs or 0 for row in wanted)
    values, indices = (found.tolist() for found in logprobs.topk(most, dim=-1))
    for line, row in enumerate(wanted):
        top = tuple(zip(indices[line], values[line], strict=True))[: choosers[row].sampling.logprobs]
        choices[row] = Choice(tokens[row], failed[row], float(logprobs[line, tokens[row]]), top)
    return choices
