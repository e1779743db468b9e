"""The state of one request while it generates. Knows no model; `llm.py` moves it forward."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stages.llm.answers.detokenizer import TextStream
from stages.llm.messages import SoFar
from stages.llm.model.forward import PlacedImage
from stages.llm.model.slot_cache import Chunk
from stages.llm.model.slot_table import SlotContents
from stages.llm.sampling.sampling import RowSampler
from stages.llm.sampling.scoring import PromptScoring, Scored


@dataclass(frozen=True, slots=True)
class Followed:
    """The row in `slot` computes the first `num_tokens` for another one, too, for as long as these are the slot's `contents`."""

    slot: int
    contents: SlotContents
    num_tokens: int


@dataclass(slots=True)
class LlmRow:
    """`contents` are the tokens so far (prompt and answer) and how many of them the slot has. `num_given` of them were
    there when the row got its slot: the prompt, and what was generated before it had to make way. `images`: those of which
    something is still to be computed. `positions` [3, prompt tokens] and `position_delta` are for models whose images take
    positions of their own (M-RoPE); a token after the prompt stands at its index plus the delta."""

    slot: int
    contents: SlotContents
    num_prompt: int
    num_given: int
    num_cached: int
    max_tokens: int
    sampler: RowSampler
    text: TextStream
    images: tuple[PlacedImage, ...] = ()
    positions: Tensor | None = None
    position_delta: int = 0
    end_tokens: frozenset[int] = frozenset()
    foreseen: float = 0.0  # tokens of its answer, in all
    told: float = 0.0  # what was foreseen when it was told how much is left of the answer
    is_sound: bool = False  # the last logits were numbers, so all that the slot holds of this row are
    scoring: PromptScoring | None = None
    scored: Scored = ()  # of the prompt, in the step that was just computed
    follows: Followed | None = None  # who computes its beginning, too
    is_new: bool = True  # nothing of it was computed before it got its slot, nor in another one

    @property
    def num_waiting(self) -> int:
        """Tokens that were given and are still to be computed."""
        left = self.num_given - self.contents.num_computed
        return left if left > 0 else 0

    @property
    def num_own(self) -> int:
        """Of those the ones that no other row computes for it."""
        followed = 0 if self.follows is None else self.follows.num_tokens - self.contents.num_computed
        return self.num_waiting - max(0, followed)

    @property
    def is_scored(self) -> bool:
        """Whether something is still to be told of the prompt's own tokens."""
        return self.scoring is not None and not self.scoring.is_done

    @property
    def num_generated(self) -> int:
        return len(self.contents.tokens) - self.num_prompt

    @property
    def answer(self) -> Sequence[int]:
        """The tokens generated so far."""
        return self.contents.tokens[self.num_prompt :]

    def suspended(self) -> "SuspendedAnswer":
        return SuspendedAnswer(tuple(self.answer), self.num_cached, self.sampler, self.text, self.scoring)

    def next_chunk(self, length: int = 1) -> Chunk:
        return Chunk(self.slot, self.contents.num_computed, length)


@dataclass(frozen=True, slots=True)
class SuspendedAnswer:
    """What a row that had to make way goes on from, here or, by what was told of it, in another stage: the tokens generated so far, and
    where its sampling, its text and what is told of its prompt stand. Keys and values are found again by the tokens, as far as a slot
    still holds them, or else computed again. `num_cached` None: nothing of it was computed here yet."""

    tokens: tuple[int, ...]
    num_cached: int | None
    sampler: RowSampler
    text: TextStream
    scoring: PromptScoring | None = None


def replay(so_far: SoFar, sampler: RowSampler, text: TextStream) -> None:
    """Brings a new answer's sampling and text to where another stage left them; what that makes ready to be shown was shown. Some
    microseconds a token."""
    first_unshown = len(so_far.token_ids) - len(so_far.unshown)
    for place, token in enumerate(so_far.token_ids):
        sampler.accept(token)
        text.push(token, so_far.unshown[place - first_unshown] if place >= first_unshown else None)
