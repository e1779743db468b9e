"""What a stage's slots hold in pages, and which of it leaves: behind the answers, a few at a time, never in their way.

Decides when a page may leave (its row's logits were numbers, so what is before them is), how much at once, and what is saved of a slot
that is about to be given away. Knows no forward pass, no cache, and no host.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.contract.pages import MadePage
from stages.llm.model.slot_pages import SlotPages
from stages.llm.model.slot_table import SlotTable
from stages.llm.pages.ledger import LyingPage, PageLedger

EXPORT_BYTES = 8 * 2**20
"""What one call of `export` hands over at most, and one page at least: a few milliseconds of a slow core."""

SAVED_BYTES = 4 * EXPORT_BYTES
"""What is kept on the host, at most, of slots that were given away before their pages had left."""


class Paging:
    """Of the slots of one stage. On one thread, the engine's, but for `lost`. `pages`: None where there are none."""

    def __init__(self, table: SlotTable, pages: SlotPages | None) -> None:
        self._table, self._pages = table, pages
        self._ledger = PageLedger()
        self._saved: deque[MadePage] = deque()
        self._lost: deque[str] = deque()
        self._is_asked = False  # somebody takes what is exported

    def came(self, names: Sequence[str], brought: Sequence[str]) -> None:
        """A newcomer with a prompt of these pages, some of which were brought from where they are remembered."""
        while self._lost:
            self._ledger.lose(self._lost.popleft())
        self._ledger.ask(names)
        self._ledger.give(brought)

    def computed(self, slot: int) -> None:
        """All that the slot holds is sound."""
        contents, each = self._table.contents_of(slot), self._table.naming.page_tokens
        if contents is None or (num_full := contents.num_computed // each) <= self._ledger.num_held(slot):
            return
        # Of a prompt that was found whole the last token is computed all the same.
        self._ledger.hold(slot, contents.chain[1 : num_full + 1], (contents.num_reused + 1) // each)

    def leave(self, slot: int, num_kept: int = 0) -> None:
        """The slot is about to be overwritten, but for the first `num_kept` tokens. What was asked for again and again is saved."""
        if self._is_asked:
            chances = self._ledger.last_chance(slot, num_kept // self._table.naming.page_tokens)
            while self._has_room(SAVED_BYTES, len(self._saved)) and (page := next(chances, None)) is not None:
                self._saved.extend(self._read(page))
        self._ledger.let_go(slot)

    def forget(self, slot: int) -> None:
        """What lies in the slot is not to be trusted."""
        self._ledger.let_go(slot)

    def has_exports(self, *, idle: bool) -> bool:
        self._is_asked = True
        return bool(self._saved) or (self._pages is not None and self._ledger.has_next(idle=idle))

    def export(self, *, idle: bool) -> Sequence[MadePage]:
        """As `Paged` has it. What was saved comes first."""
        self._is_asked = True
        exported: list[MadePage] = []
        while self._has_room(EXPORT_BYTES, len(exported)):
            if self._saved:
                exported.append(self._saved.popleft())
            elif (page := self._ledger.next(idle=idle)) is not None:
                exported += self._read(page)
            else:
                break
        return exported

    def lost(self, names: Sequence[str]) -> None:
        """Any thread. Whoever asks for them next has them leave again."""
        self._lost.extend(names)

    def _has_room(self, num_bytes: int, num_pages: int) -> bool:
        """For one more page."""
        return self._pages is not None and (not num_pages or (num_pages + 1) * self._pages.num_bytes <= num_bytes)

    def _read(self, page: LyingPage) -> Sequence[MadePage]:
        """None where it doesn't tell all that whoever finds it must know."""
        contents = self._table.contents_of(page.slot)
        if self._pages is None or contents is None:
            return ()
        begin = page.number * self._pages.page_tokens
        beginning = [image.grid for image in contents.images if begin <= image.offset < begin + self._pages.page_tokens]
        if self._table.naming.three_positions and None in beginning:
            return ()
        grids = _as_array([grid for grid in beginning if grid is not None])
        before = tuple(contents.chain[1 : page.number + 1])
        return (MadePage(page.name, contents.salt, self._pages.read(page.slot, page.number, grids), before),)


def _as_array(grids: Sequence[tuple[int, int, int]]) -> NDArray[np.int64] | None:
    return np.array(grids, np.int64) if grids else None
