"""The pages of one prompt that were brought for it, and how far they reach together with what a slot holds. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from stages.llm.pages.kv_page import Grid, KvPage


@dataclass(slots=True)
class PagesAtHand:
    """`pages`: by their number, from 0. `grids`: of the images that begin in them, by the images' offsets, where positions depend on
    them."""

    page_tokens: int
    pages: dict[int, KvPage] = field(default_factory=dict)
    grids: dict[int, Grid] = field(default_factory=dict)

    def let_go(self) -> None:
        """They have served their turn: their memory is wanted for others' pages."""
        self.pages.clear()

    def reach(self, num_held: int, num_tokens: int) -> int:
        """How many of the first tokens need not be computed where a slot holds the first `num_held`: at most all but one of
        `num_tokens`, because the last must be computed."""
        end = (num_held // self.page_tokens + len(self.beyond(num_held))) * self.page_tokens
        return max(num_held, min(end, num_tokens - 1))

    def beyond(self, num_held: int) -> Sequence[KvPage]:
        """Those that go on where a slot ends that holds the first `num_held` tokens, the first in the page in which it ends."""
        first = number = num_held // self.page_tokens
        while number in self.pages:
            number += 1
        return [self.pages[one] for one in range(first, number)]
