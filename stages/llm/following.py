"""Prompts that begin alike and come at once: one row computes the beginning, the others wait for it and copy.

Decides whom a row waits for, and for how much: the row that has its slot already and shares the most whole pages with it, if those are
more than what the newcomer has by then. It waits only while that row takes part in the same steps: where that one doesn't go on, the one
that waited for most of it does, and the others wait for that. What is computed is copied right after the step, before whoever computed it
may leave its slot. Knows no forward pass and no queue.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from stages.llm.model.slot_table import SlotContents, SlotTable
from stages.llm.row import Followed, LlmRow

LEAST_PAGES = 2
"""Fewer are computed sooner than they are waited for."""


class Following:
    """On the engine's thread. `copy`: so many of the first tokens from one slot into another."""

    def __init__(self, table: SlotTable, copy: Callable[[int, int, int], None]) -> None:
        self._table, self._copy = table, copy

    def followed_by(self, slot: int, newcomer: SlotContents) -> Followed | None:
        """Whom the newcomer, which was just given `slot`, is to wait for."""
        leader = self._table.in_the_making(slot, newcomer)
        if leader is None or (contents := self._table.contents_of(leader.slot)) is None:
            return None
        return Followed(leader.slot, contents, leader.num_reused) if leader.num_reused >= self._least(newcomer) else None

    def waiting(self, rows: Sequence[LlmRow]) -> Mapping[int, int]:
        """Who of the rows of a step waits in it, and for whom, by their indices."""
        if all(row.follows is None for row in rows):
            return {}
        self.catch_up(rows)
        index_of = {row.slot: index for index, row in enumerate(rows)}
        left_alone: dict[int, list[LlmRow]] = {}  # by the contents that nobody goes on with here, who waits for them
        for row in rows:
            if (followed := row.follows) is not None and not (self._is_computing(followed) and followed.slot in index_of):
                left_alone.setdefault(id(followed.contents), []).append(row)
        for waited in left_alone.values():
            self._go_on(waited)
        return {
            index: index_of[row.follows.slot]
            for index, row in enumerate(rows)
            if row.follows is not None and self._is_computing(row.follows)
        }

    def catch_up(self, rows: Sequence[LlmRow], failed: Collection[int] = ()) -> None:
        """After a step: copies what was waited for and is computed, but for what lies in slots whose rows have `failed`."""
        for row in rows:
            if (followed := row.follows) is None or followed.slot in failed:
                continue
            if self._num_there(followed) == followed.num_tokens:
                self._take_over(row, followed)

    def _is_computing(self, followed: Followed) -> bool:
        """What it was waited for, and isn't there yet."""
        return self._is_there(followed) and followed.contents.num_computed < followed.num_tokens

    def _is_there(self, followed: Followed) -> bool:
        return self._table.contents_of(followed.slot) is followed.contents

    def _num_there(self, followed: Followed) -> int:
        """Of what is waited for."""
        return min(followed.num_tokens, followed.contents.num_computed) if self._is_there(followed) else 0

    def _go_on(self, rows: Sequence[LlmRow]) -> None:
        """One of them computes what they waited for, from what is there; whom that serves waits for it."""
        heir = max(rows, key=lambda row: row.follows.num_tokens if row.follows is not None else 0)
        longest = heir.follows
        for row in rows:
            if row is heir or row.follows is None or longest is None:
                continue
            num_tokens = min(row.follows.num_tokens, longest.num_tokens)
            row.follows = Followed(heir.slot, heir.contents, num_tokens) if num_tokens >= self._least(row.contents) else None
        if longest is not None:
            self._take_over(heir, longest)

    def _least(self, contents: SlotContents) -> int:
        return contents.num_computed + LEAST_PAGES * self._table.naming.page_tokens

    def _take_over(self, row: LlmRow, followed: Followed) -> None:
        """What is there of it, whether or not that is all."""
        row.follows = None
        num_tokens = self._num_there(followed)
        if num_tokens > row.contents.num_computed:
            self._copy(followed.slot, row.slot, num_tokens)
            row.contents.num_computed = row.contents.num_reused = num_tokens
            self._table.advance(row.slot)
            if row.is_new:
                row.num_cached = min(num_tokens, row.num_prompt)
