"""How likely a prompt's own tokens were, for who asks: read off the logits of the chunk that holds them, while the prompt is computed.

Decides how many tokens a pass may have of whose every one the logits are kept, so that they stay within a bound whatever the vocabulary,
and that what was told is told once, also where a row was suspended and its prompt is computed again. Knows no model and no text.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from stages.llm.sampling.sampling import SampledToken, logprobs_of

LOGITS_BYTES = 64 * 2**20
"""What the logits of one pass may take, in float32."""
_ROWS = 32  # of the logits, that are worked on at a time

Scored: TypeAlias = Sequence[SampledToken]
"""Of tokens of a prompt that stand one behind the other."""


def tokens_within(num_vocabulary: int) -> int:
    """How many tokens' logits one pass may keep."""
    return max(1, LOGITS_BYTES // (4 * num_vocabulary))


def are_numbers(scored: Scored) -> bool:
    return not any(math.isnan(one.logprob) for one in scored)


class PromptScoring:
    """Of one row. `num_likeliest`: of how many tokens beside the prompt's own. `num_scored`: of how many it was told elsewhere.
    `num_told`: of how many of the prompt's first tokens nothing more is to be told; there is never anything to tell of the first."""

    def __init__(self, prompt: Sequence[int], num_likeliest: int, num_scored: int = 0) -> None:
        self._prompt, self._num_likeliest = prompt, num_likeliest
        self.num_told = 1 + num_scored

    @property
    def is_done(self) -> bool:
        return self.num_told >= len(self._prompt)

    def read(self, logits: Tensor, start: int) -> Scored:
        """What the logits [length, vocabulary] behind the prompt's tokens from `start` on tell, and was not told yet."""
        first, end = max(self.num_told, start + 1), min(start + len(logits) + 1, len(self._prompt))
        return list(self._scored(logits[first - start - 1 :], self._prompt[first:end]))

    def told(self, scored: Scored) -> None:
        self.num_told += len(scored)

    def _scored(self, logits: Tensor, tokens: Sequence[int]) -> Iterator[SampledToken]:
        most = self._num_likeliest
        for at in range(0, len(tokens), _ROWS):
            few = tokens[at : at + _ROWS]
            wanted = torch.tensor(few, device=logits.device)
            lines = logprobs_of(logits[at : at + len(few)].float(), wanted, most).tolist()
            for token, (own, *rest) in zip(few, lines, strict=True):
                top = tuple((int(other), value) for other, value in zip(rest[:most], rest[most:], strict=True))
                yield SampledToken(token, logprob=own, top=top)
