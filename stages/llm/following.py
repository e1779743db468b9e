"""Prompts that begin alike and come at once: one row computes the beginning, the others wait for it and copy.

Decides whom a row waits for, and for how much: the row that has its slot already and shares the most whole pages with it, if those are
more than what the newcomer has by then. It waits only while that row takes part in the same steps: where that one doesn't go on, the
first of those that waited does, and the others wait for it. Knows no forward pass and no queue.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

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
        least = newcomer.num_computed + LEAST_PAGES * self._table.naming.page_tokens
        return Followed(leader.slot, contents, leader.num_reused) if leader.num_reused >= least else None

    def catch_up(self, rows: Sequence[LlmRow]) -> Mapping[int, int]:
        """Before a step of these rows: copies what those that are waited for have computed. Returns who still waits in this step, and
        for whom, by their indices."""
        index_of = {row.slot: index for index, row in enumerate(rows)}
        waiting: dict[int, int] = {}
        heirs: dict[int, Followed] = {}  # by the contents that nobody goes on with here, who does so now
        for index, row in enumerate(rows):
            while (followed := row.follows) is not None:
                if self._is_computing(followed) and followed.slot in index_of:
                    waiting[index] = index_of[followed.slot]
                    break
                row.follows = self._follows_now(row, followed, heirs)
        return waiting

    def _is_computing(self, followed: Followed) -> bool:
        """What it was waited for, and isn't there yet."""
        is_there = self._table.contents_of(followed.slot) is followed.contents
        return is_there and followed.contents.num_computed < followed.num_tokens

    def _follows_now(self, row: LlmRow, followed: Followed, heirs: dict[int, Followed]) -> Followed | None:
        """Whom it waits for instead, where that doesn't go on: the first that waited for it, too. That one goes on itself, with what it
        can have."""
        is_there = self._table.contents_of(followed.slot) is followed.contents
        num_there = min(followed.num_tokens, followed.contents.num_computed) if is_there else 0
        if num_there < followed.num_tokens:
            if (heir := heirs.get(id(followed.contents))) is not None:
                return replace(heir, num_tokens=min(heir.num_tokens, followed.num_tokens))
            heirs[id(followed.contents)] = Followed(row.slot, row.contents, followed.num_tokens)
        if num_there > row.contents.num_computed:
            self._copy(followed.slot, row.slot, num_there)
            row.contents.num_computed = row.contents.num_reused = num_there
            self._table.advance(row.slot)
            if not row.num_generated:
                row.num_cached = min(num_there, row.num_prompt)
        return None
