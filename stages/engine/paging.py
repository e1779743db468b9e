"""What an engine does for a stage whose rows begin where others left off (`stages/contract/pages.py`): it tells a host what pages an item
has and how fast computing is, and has pages exported between steps.

Decides that pages give way: a failure of them is logged and counted, and fails nobody; whoever failed is left alone for a while.
Knows no cache and no queue.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from stages.contract.errors import TriptychError
from stages.contract.item import DEFAULT_TENANT
from stages.contract.pages import Paged, PageRun, PageTaker
from stages.contract.recipe import Payload
from stages.contract.result import Result
from stages.engine.scheduling.learned_speed import LearnedSpeed
from stages.engine.work import as_stage_error

P = TypeVar("P", bound=Payload)
FAILURE_REST_STEPS = 64


class EnginePaging(Generic[P]):
    """A `Paging`. `speed`: what the engine's steps tell of its device; `refuse` raises what `submit` would; `wake` has the engine's thread
    look again whether there is anything to export.
    `export`, `has_exports` and `stepped` are for that thread."""

    def __init__(
        self,
        stage: Paged[P],
        name: str,
        speed: LearnedSpeed,
        refuse: Callable[[P, str], None],
        wake: Callable[[], None],
    ) -> None:
        self._stage, self._name, self._speed, self._refuse, self._wake = stage, name, speed, refuse, wake
        self._taker: PageTaker | None = None
        self._resting = 0  # steps, before anything is exported
        self._lock = threading.Lock()
        self.num_failures = 0

    # ---- any thread ----

    @property
    def page_type(self) -> type[Result]:
        return self._stage.page_type

    def run_of(self, payload: P, tenant: str = DEFAULT_TENANT) -> PageRun:
        try:
            self._refuse(payload, tenant)
        except Exception as error:
            raise as_stage_error(self._name, error) from None
        try:
            return self._stage.page_run(payload)
        except Exception as error:
            self.failed(error)
            return PageRun()

    def seconds_for(self, work: float) -> float | None:
        return self._speed.more_s(work)

    def remember_with(self, taker: PageTaker) -> None:
        self._taker = taker
        self._wake()

    def room_again(self) -> None:
        self._wake()

    def lost(self, names: Sequence[str]) -> None:
        try:
            self._stage.lost(names)
        except Exception as error:
            self.failed(error)

    def failed(self, error: Exception) -> TriptychError:
        """The stage failed over pages: no item hears of it."""
        with self._lock:
            self.num_failures += 1
            self._resting = FAILURE_REST_STEPS
        return as_stage_error(self._name, error)

    # ---- the engine's thread ----

    def stepped(self) -> None:
        """A step did something."""
        with self._lock:
            self._resting = max(0, self._resting - 1)

    def has_exports(self, *, idle: bool) -> bool:
        """Whether there is something to be exported now. `idle`: nothing else is to be done."""
        try:
            return self._may_export() and self._stage.has_exports(idle=idle)
        except Exception as error:
            self.failed(error)
            return False

    def export(self, *, idle: bool) -> None:
        """A few milliseconds' worth, where there is any. Raises what the stage raises."""
        if self._taker is None:
            return
        pages = self._stage.export(idle=idle)
        if pages:
            self._taker.take(pages)
        elif self._stage.has_exports(idle=idle):  # it would be asked again at once
            with self._lock:
                self._resting = max(1, self._resting)

    def _may_export(self) -> bool:
        return not self._resting and self._taker is not None and self._taker.has_room()
