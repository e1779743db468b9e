"""What one answer is held to, as far as it has come: which tokens may be next.

A token's mask is made on a thread of the stage's own while the device computes the logits that it is for: `advance` begins it as soon as
the token before it is known, `settled` waits for it when the logits are there. Decides when a mask holds, and what is told where an
answer can't go on. Knows no logits.
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import TypeAlias

from llguidance import LLMatcher

from stages.contract.errors import InvalidRequest, StageFailed, TriptychError
from stages.llm.structure.vocabulary import Mask, Vocabulary

ROWS_A_PIECE = 8
"""A mask takes some ten microseconds, as to wake a thread does."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Where a stage's masks are made."""

    executor: Executor
    num_threads: int


@dataclass(frozen=True, slots=True)
class Start:
    """Where every answer that is held to the same begins. `matcher` is only copied. `mask`: of the first token. `after`: what comes
    before one of these is held to `before` only (None: to nothing)."""

    vocabulary: Vocabulary
    matcher: LLMatcher
    mask: Mask
    workers: Workers
    after: frozenset[int] = frozenset()
    before: Mask | None = None

    def behind(self, tokens: Sequence[int]) -> "Start":
        """Where an answer goes on that has said these already. Some microseconds a token, on any thread. Raises as `dead_end`."""
        begun = next((place + 1 for place, token in enumerate(tokens) if token in self.after), None) if self.after else 0
        if begun is None or not tokens:
            return self
        matcher = self.matcher.deep_copy()
        for token in tokens[begun:]:
            if token not in self.vocabulary.end_tokens:
                matcher.consume_token(token)
        mask = self.vocabulary.mask(matcher)
        if matcher.is_error():
            raise dead_end(matcher.get_error())
        return replace(self, matcher=matcher, mask=mask, after=frozenset(), before=None)


class RowStructure:
    """`failure`: why it can't go on. Changes on the device's thread only."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._matcher: LLMatcher | None = None
        self._has_begun = not start.after
        self._mask = start.mask if self._has_begun else start.before
        self._pending: Future[_Read] | None = None
        self.failure: TriptychError | None = None

    def settled(self) -> Mask | None:
        """The next token's; None: it may be any, also where the answer can't go on."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._mask, self.failure = pending.result()[self]
        return None if self.failure is not None or self.is_complete else self._mask

    @property
    def is_complete(self) -> bool:
        """Nothing may follow, not even a token that ends the answer, for the model has none."""
        return self._has_begun and self._mask is not None and not self._mask.any()

    @staticmethod
    def advance(taken: "Sequence[tuple[RowStructure, int]]") -> None:
        """Tokens that were chosen, of rows of one stage."""
        reading = [(structure, token) for structure, token in taken if structure._takes(token)]
        if not reading:
            return
        workers = reading[0][0]._start.workers
        num_pieces = min(workers.num_threads, -(-len(reading) // ROWS_A_PIECE))
        for piece in (reading[first::num_pieces] for first in range(num_pieces)):
            pending = workers.executor.submit(_read, piece)
            for structure, _ in piece:
                structure._pending = pending

    def _takes(self, token: int) -> bool:
        """Whether `token`, which was chosen, makes for another mask."""
        if self._has_begun:
            return token not in self._start.vocabulary.end_tokens and self.failure is None and not self.is_complete
        if token in self._start.after:
            self._has_begun, self._mask = True, self._start.mask
        return False

    def _tried(self, token: int) -> "_Outcome":
        """A row's failure is its own, also where llguidance panics, which is no `Exception`."""
        try:
            return self._read(token)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return None, StageFailed("it was not found out which tokens may come next", detail=repr(error))

    def _read(self, token: int) -> "_Outcome":
        """On a thread of the stage's: takes up to some ten milliseconds."""
        if self._matcher is None:
            self._matcher = self._start.matcher.deep_copy()
        self._matcher.consume_token(token)
        mask = self._start.vocabulary.mask(self._matcher)
        return mask, dead_end(self._matcher.get_error()) if self._matcher.is_error() else None


_Outcome: TypeAlias = tuple[Mask | None, TriptychError | None]
_Read: TypeAlias = dict[RowStructure, _Outcome]


def _read(taken: Sequence[tuple[RowStructure, int]]) -> _Read:
    return {structure: structure._tried(token) for structure, token in taken}


def dead_end(told: str) -> InvalidRequest:
    """Of an answer, at what llguidance has told."""
    if "NoExtension" in told:
        why = "no token of this model may come next"
    else:
        why = "to find which tokens may come next takes too much work; make it simpler"
    return InvalidRequest(f"constraint leads to where {why}", param="constraint", detail=told)
