"""Whether a device still works, as far as its batches tell: pure, with the time handed in.

Suspect is a device that failed `MAX_FAILURES` batches in a row, over as many different items. Bad items fail so, too, and must
not end a replica: whoever asks tries something that worked before, and says `lost` only where that fails as well. Broken at once
is a device whose error stays (`faults.Fault.DEVICE`), or whose batch is not back after `max_step_s`; a first batch may take
`FIRST_STEP_FACTOR` times as long, because it compiles. An item that is prepared for so long counts as much: its thread is lost, and
once all are, nothing runs any more. Broken is for ever: only a new process helps.

A "batch" is all that the engine's thread has the stage do from one look at the clock to the next: freeing rows, starting one, a step, a
try whether it still works.
"""

from collections.abc import Collection

MAX_FAILURES = 5
MAX_STEP_S = 120.0
FIRST_STEP_FACTOR = 5


class Health:
    """`broken` says why; None: all is well, for all that is known."""

    def __init__(self, max_step_s: float = MAX_STEP_S) -> None:
        self.broken: str | None = None
        self._max_step_s = max_step_s
        self._began: float | None = None
        self._preparing: dict[str, float] = {}
        self._has_worked = False
        self._num_failures = 0
        self._failed: set[str] = set()

    def begin(self, now: float) -> None:
        """A batch is on the device from now on, until `end`."""
        self._began = now

    def end(self) -> None:
        self._began = None

    def begin_preparing(self, item_id: str, now: float) -> None:
        """A thread prepares it from now on, until `end_preparing`. This, and `check`, one at a time."""
        self._preparing[item_id] = now

    def end_preparing(self, item_id: str) -> None:
        del self._preparing[item_id]

    def is_preparing(self, item_id: str | None = None) -> bool:
        """That item, or any."""
        return bool(self._preparing) if item_id is None else item_id in self._preparing

    def went_well(self) -> None:
        self._has_worked, self._num_failures = True, 0
        self._failed.clear()

    def failed(self, ids: Collection[str]) -> None:
        """A batch of these failed as a whole, and the requests are not at fault."""
        self._num_failures += 1
        self._failed.update(ids)

    @property
    def is_suspect(self) -> bool:
        """Nothing has worked for a while: time to try something that did."""
        return min(self._num_failures, len(self._failed)) >= MAX_FAILURES

    def lost(self, why: str) -> None:
        """For good."""
        self.broken = self.broken or why

    def check(self, now: float) -> None:
        """Notices a batch, or a preparation, that never ends."""
        bound = self._max_step_s * (1 if self._has_worked else FIRST_STEP_FACTOR)
        began = self._began  # the engine's thread may set it meanwhile
        if began is not None and now - began > bound:
            self.lost(f"a batch has been running for {now - began:.0f} s, and max_step_s allows {bound:g}")
        first = min(self._preparing.values(), default=now)
        if now - first > bound:
            self.lost(f"an item has been prepared for {now - first:.0f} s, and max_step_s allows {bound:g}")
