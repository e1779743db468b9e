"""The next token of every row, sampled for all rows together.

Decides how sampling parameters change a distribution, in vLLM's order: bias and penalties, what may not come next, temperature, min_p,
top_k, top_p. Log probabilities are of the model's own distribution, before any of that. Knows no model, no text and no slots.

What a row draws is a function of its seed, its position in the answer and its own logits, never of what shares the batch. All is
computed where the logits are, and read back once a step.
"""

import math
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stages.device.uploads import uploaded
from stages.llm.messages import Sampling
from stages.llm.sampling.candidates import BLOCK, keep, likeliest, top
from stages.llm.sampling.likeliest_share import works_on
from stages.llm.sampling.masks import apply_masks, with_masks
from stages.llm.sampling.noise import draw
from stages.llm.sampling.penalties import Penalties, apply_penalties
from stages.llm.sampling.race import draw_in_two
from stages.llm.sampling.row_numbers import RowNumbers
from stages.llm.structure.row_structure import RowStructure

_LOG2_E = math.log2(math.e)


class RowSampler:
    """One request's sampling: its parameters, its seed (drawn here where the request has none), and what of its answer matters
    to the next token. `prompt`: the tokens that it asks with. `structure`: what the answer is held to. `end_tokens`: those that end it."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int] = (),
        structure: RowStructure | None = None,
        end_tokens: Collection[int] = (),
    ) -> None:
        self.sampling = sampling
        self.structure = structure
        self.seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self.position = 0
        self.penalties = Penalties.of(sampling, prompt, end_tokens)

    def accept(self, token: int) -> None:
        """`token` was added to the answer."""
        self.position += 1
        if self.penalties is not None:
            self.penalties.accept(token)


class SampledToken(NamedTuple):
    """`failed`: the logits were not numbers. `logprob` and `top` (token, logprob; likeliest first) where asked for."""

    token: int
    failed: bool = False
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


def sample(logits: Tensor, samplers: Sequence[RowSampler], meanwhile: Callable[[], None] | None = None) -> list[SampledToken]:
    """One token a row from `logits` [rows, vocabulary], of any float dtype. Remembers the tokens for what comes next. `meanwhile` is
    called while a device computes them, or before masks are waited for."""
    is_held = any(sampler.structure is not None for sampler in samplers)
    if meanwhile is not None and is_held:
        meanwhile()
    decided = decide(logits, samplers)
    if meanwhile is not None and not is_held:
        meanwhile()
    sampled = [_read(line, sampler) for line, sampler in zip(decided.tolist(), samplers, strict=True)]
    for sampler, one in zip(samplers, sampled, strict=True):
        sampler.accept(one.token)
    RowStructure.advance(
        [
            (sampler.structure, one.token)
            for sampler, one in zip(samplers, sampled, strict=True)
            if sampler.structure is not None and not one.failed
        ]
    )
    return sampled


def make_ready(device: torch.device) -> None:
    """Whatever choosing there would have to compile first. At load, so that no answer waits for it."""
    works_on(device)


def decide(logits: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    """What `sample` reads back: [rows, 3 + 2 n] float64, on the logits' device: token, whether it failed, the token's log
    probability, then n likeliest tokens and their log probabilities; n is the most that a row asks for."""
    logits = logits.float()
    adjusted = _adjusted(logits, samplers)
    highest = adjusted.amax(dim=-1)
    tokens = _tokens(adjusted, highest, samplers)
    columns = [tokens.double()[:, None], (~torch.isfinite(highest)).double()[:, None], _logprobs(logits, tokens, samplers)]
    return torch.cat(columns, dim=1)


def _read(line: list[float], sampler: RowSampler) -> SampledToken:
    token, failed, logprob, *rest = line
    asked, most = sampler.sampling.logprobs, len(rest) // 2
    if asked is None:
        return SampledToken(int(token), bool(failed))
    found = tuple((int(token), value) for token, value in zip(rest[:asked], rest[most : most + asked], strict=True))
    return SampledToken(int(token), bool(failed), logprob, found)


def _adjusted(logits: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    penalties = [sampler.penalties for sampler in samplers]
    masks = [
        (row, mask)
        for row, sampler in enumerate(samplers)
        if sampler.structure is not None and (mask := sampler.structure.settled()) is not None
    ]
    if all(one is None for one in penalties):
        return with_masks(logits, masks) if masks else logits
    adjusted = logits.clone(memory_format=torch.contiguous_format)
    apply_penalties(adjusted, penalties)
    apply_masks(adjusted, masks)
    return adjusted


def _tokens(adjusted: Tensor, highest: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    """A token of every row [rows]: drawn, or the likeliest."""
    drawn = [row for row, sampler in enumerate(samplers) if sampler.sampling.temperature > 0]
    if len(drawn) == len(samplers):
        return _drawn(adjusted, highest, samplers)
    tokens = likeliest(adjusted)
    if drawn:
        rows = uploaded(torch.tensor(drawn), adjusted.device)
        tokens[rows] = _drawn(adjusted[rows], highest[rows], [samplers[row] for row in drawn])
    return tokens


def _drawn(adjusted: Tensor, highest: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    """A token of every row [rows], drawn."""
    settings = [sampler.sampling for sampler in samplers]
    numbers = RowNumbers.of(settings, adjusted.device, [(sampler.seed, sampler.position) for sampler in samplers])
    is_scaled = any(one.temperature != 1 for one in settings)
    masses = _masses(adjusted, highest, numbers.temperature.float() if is_scaled else None)
    keep(masses, settings, numbers)
    return (draw_in_two if works_on(masses.device) else draw)(masses, numbers.key, BLOCK)


def _masses(adjusted: Tensor, highest: Tensor, temperatures: Tensor | None) -> Tensor:
    """The tokens' probabilities but for a factor (the likeliest token's is 1), with as many tokens of mass 0 added as fill the
    last block. `temperatures` [rows] None: 1 everywhere."""
    rows, size = adjusted.shape
    masses = adjusted.new_empty(rows, -(-size // BLOCK) * BLOCK)
    inside, masses[:, size:] = masses[:, :size], 0.0
    _exp_of_difference(adjusted, highest[:, None], temperatures, out=inside)
    return masses


def _exp_of_difference(logits: Tensor, highest: Tensor, temperatures: Tensor | None, *, out: Tensor) -> Tensor:
    """`out`: exp((logits - highest) / temperature), by powers of 2, which take half the time."""
    # A difference of logits, scaled: a temperature close to 0 must become greedy, not infinite.
    torch.sub(logits, highest, out=out)
    out *= _LOG2_E if temperatures is None else _LOG2_E / temperatures[:, None]
    return out.exp2_()


def _logprobs(logits: Tensor, tokens: Tensor, samplers: Sequence[RowSampler]) -> Tensor:
    """The columns that tell of log probabilities, [rows, 1 + 2 n]; zeros where nobody asks."""
    wanted = [row for row, sampler in enumerate(samplers) if sampler.sampling.logprobs is not None]
    most = max((samplers[row].sampling.logprobs or 0 for row in wanted), default=0)
    if len(wanted) == len(samplers):
        return logprobs_of(logits, tokens, most)
    found = torch.zeros(len(samplers), 1 + 2 * most, dtype=torch.float64, device=logits.device)
    if wanted:
        rows = uploaded(torch.tensor(wanted), logits.device)
        found[rows] = logprobs_of(logits[rows], tokens[rows], most)
    return found


def logprobs_of(logits: Tensor, tokens: Tensor, most: int) -> Tensor:
    values, places = top(logits, most)
    highest = values[:, :1] if most else logits.amax(dim=-1, keepdim=True)
    # As `logsumexp`, which takes twice as long.
    exponentials = torch.add(highest * -_LOG2_E, logits, alpha=_LOG2_E).exp2_()
    total = highest + exponentials.sum(dim=-1, keepdim=True).log_()
    own = logits.gather(1, tokens[:, None])
    return torch.cat([(own - total).double(), places.double(), (values - total).double()], dim=1)
