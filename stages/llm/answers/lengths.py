"""How long answers will be, learned from those that have ended. Pure; knows no tokens.

What is learned is how many end at each length of those that come so far, whatever bound each had: an answer that its bound cut says that
it would have been longer, and no more (Kaplan and Meier, 1958). Lengths are looked at in steps that widen with the length, and the older
counts for less. Before anything is seen, few are supposed to end while they are short, and half of those that are as long as they get.
"""

import math
from bisect import bisect_right

FORGET = 0.995  # what is left of what was seen, after one more answer
FIRST_WEIGHT = 2.0  # how many answers the first supposition is worth
USUAL_TOKENS, MOST_END = 300, 0.5
NEGLIGIBLE = 1e-6
EDGES = (0, 1, 2, 3, *(round(2 ** (power / 2)) for power in range(4, 43)))


class AnswerLengths:
    """Of one model. One thread at a time."""

    def __init__(self) -> None:
        self._came = [FIRST_WEIGHT] * len(EDGES)
        self._ended = [FIRST_WEIGHT * min(MOST_END, MOST_END * edge / USUAL_TOKENS) for edge in EDGES]

    def saw(self, num_tokens: int, *, was_cut: bool) -> None:
        """An answer of so many tokens; `was_cut`: by its bound."""
        last = self._step_of(num_tokens)
        for step in range(last):
            self._count(step, 0.0)
        if not was_cut:
            self._count(last, 1.0)

    def expected(self, bound: int, so_far: int = 0) -> float:
        """Tokens of an answer in all, of at most `bound`, that has `so_far` already and goes on. At least one more."""
        tokens, begin, alive = float(so_far), float(so_far), 1.0
        for step in range(self._step_of(so_far + 1), len(EDGES)):
            end = min(bound, self._end(step))
            if end <= begin or alive < NEGLIGIBLE:
                break
            part = min(1.0, (end - begin) / (self._end(step) - EDGES[step]))
            hazard = part * self._ended[step] / self._came[step]
            tokens += alive * (end - begin) * (1 - hazard / 2)  # who ends there ends in the middle of it
            alive, begin = alive * (1 - hazard), end
        return min(float(max(bound, so_far + 1)), max(so_far + 1.0, tokens))

    def _count(self, step: int, ended: float) -> None:
        self._came[step] = self._came[step] * FORGET + 1
        self._ended[step] = self._ended[step] * FORGET + ended

    @staticmethod
    def _step_of(num_tokens: int) -> int:
        """In which it ends that has so many."""
        return bisect_right(EDGES, num_tokens) - 1

    @staticmethod
    def _end(step: int) -> float:
        return EDGES[step + 1] if step + 1 < len(EDGES) else math.inf
