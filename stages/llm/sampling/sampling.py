"""The next token of every row, chosen for all rows together.

Decides how sampling parameters change a distribution, in vLLM's order: bias and penalties, temperature, min_p, top_k, top_p. Log
probabilities are of the model's own distribution, before any of that. Knows no model, no text and no slots.

What a row draws is a function of its seed, its position in the answer and its own logits, never of what shares the batch. All is
computed where the logits are, and read back once a step.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.llm.messages import Sampling
from stages.llm.sampling.candidates import BLOCK, keep, likeliest, top
from stages.llm.sampling.noise import draw, row_keys
from stages.llm.sampling.penalties import Penalties

_LEAST_TEMPERATURE = 1e-30
"""In float32 still a number to divide by, and greedy."""


class Chooser:
    """One request's sampling: its parameters, its seed (drawn here where the request has none), and what of its answer matters
    to the next choice. `prompt`: the tokens that it asks with."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.position = 0
        self.penalties = Penalties.of(sampling, prompt)

    def accept(self, token: int) -> None:
        """`token` was added to the answer."""
        self.position += 1
        if self.penalties is not None:
            self.penalties.accept(token)

    def leave_device(self) -> None:
        """Holds no memory there until the next choice."""
        if self.penalties is not None:
            self.penalties.leave_device()


@dataclass(frozen=True, slots=True)
class Choice:
    """`failed`: the logits were not numbers. `logprob` and `top` (token, logprob; likeliest first) where asked for."""

    token: int
    failed: bool = False
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> list[Choice]:
    """One choice a row from `logits` [rows, vocabulary], of any float dtype. Remembers the choices for what comes next."""
    choices = [_read(line, chooser) for line, chooser in zip(decide(logits, choosers).tolist(), choosers, strict=True)]
    for chooser, choice in zip(choosers, choices, strict=True):
        chooser.accept(choice.token)
    return choices


def decide(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """What `choose` reads back: [rows, 3 + 2 n] float64, on the logits' device: token, whether it failed, the token's log
    probability, then n likeliest tokens and their log probabilities; n is the most that a row asks for."""
    logits = logits.float()
    adjusted = _adjusted(logits, choosers)
    highest = adjusted.amax(dim=-1)
    drawn = [row for row, chooser in enumerate(choosers) if chooser.sampling.temperature > 0]
    if len(drawn) == len(choosers):
        tokens = _drawn(adjusted, highest, choosers)
    else:
        tokens = likeliest(adjusted)
        if drawn:
            tokens[drawn] = _drawn(adjusted[drawn], highest[drawn], [choosers[row] for row in drawn])
    columns = [tokens.double()[:, None], (~torch.isfinite(highest)).double()[:, None], _logprobs(logits, tokens, choosers)]
    return torch.cat(columns, dim=1)


def _read(line: list[float], chooser: Chooser) -> Choice:
    token, failed, logprob, *rest = line
    asked, most = chooser.sampling.logprobs, len(rest) // 2
    if asked is None:
        return Choice(int(token), bool(failed))
    found = tuple((int(token), value) for token, value in zip(rest[:asked], rest[most : most + asked], strict=True))
    return Choice(int(token), bool(failed), logprob, found)


def _adjusted(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    if all(chooser.penalties is None for chooser in choosers):
        return logits
    adjusted = logits.clone()
    for row, chooser in enumerate(choosers):
        if chooser.penalties is not None:
            chooser.penalties.apply(adjusted[row])
    return adjusted


def _drawn(adjusted: Tensor, highest: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """A token of every row [rows], drawn."""
    settings = [chooser.sampling for chooser in choosers]
    masses = _masses(adjusted, highest, [one.temperature for one in settings])
    keep(masses, settings)
    keyed = torch.tensor([(chooser.seed, chooser.position) for chooser in choosers], device=masses.device)
    return draw(masses, row_keys(keyed[:, 0], keyed[:, 1]), BLOCK)


def _masses(adjusted: Tensor, highest: Tensor, temperatures: Sequence[float]) -> Tensor:
    """The tokens' probabilities but for a factor (the likeliest token's is 1), with as many tokens of mass 0 added as fill the
    last block."""
    rows, size = adjusted.shape
    masses = adjusted.new_empty(rows, -(-size // BLOCK) * BLOCK)
    inside, masses[:, size:] = masses[:, :size], 0.0
    # A difference of logits, scaled: a temperature close to 0 must become greedy, not infinite.
    torch.sub(adjusted, highest[:, None], out=inside)
    if any(temperature != 1 for temperature in temperatures):
        inside /= masses.new_tensor([max(temperature, _LEAST_TEMPERATURE) for temperature in temperatures])[:, None]
    inside.exp_()
    return masses


def _logprobs(logits: Tensor, tokens: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """The columns that tell of log probabilities, [rows, 1 + 2 n]; zeros where nobody asks."""
    wanted = [row for row, chooser in enumerate(choosers) if chooser.sampling.logprobs is not None]
    most = max((choosers[row].sampling.logprobs or 0 for row in wanted), default=0)
    found = torch.zeros(len(choosers), 1 + 2 * most, dtype=torch.float64, device=logits.device)
    if not wanted:
        return found
    asked = logits if len(wanted) == len(choosers) else logits[wanted]
    total = asked.logsumexp(dim=-1, keepdim=True)
    values, places = top(asked, most)
    chosen = asked.gather(1, tokens[wanted][:, None])
    found[wanted] = torch.cat([(chosen - total).double(), places.double(), (values - total).double()], dim=1)
    return found
