"""What the errors of an engine's batches say about its device, and what follows: all is well, less fits, or it is broken.

A device that is broken (`stages/engine/health.py`) fails with `Broken` what was on it or being prepared for it, so that it is run
elsewhere, but not again and again: it may be what broke it. What only waited is turned away. Knows no kind of stage: what is tried
again, and how, is in `one_shot_faults.py` and `iterative_faults.py`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from stages.contract.errors import Broken, StageFailed, TooLarge, TriptychError, Unavailable
from stages.contract.faults import Fault, fault_of
from stages.contract.stage import Shrinkable
from stages.device.device_memory import empty_cache, free_bytes
from stages.engine.health import MAX_FAILURES, Health
from stages.engine.in_flight import InFlight
from stages.engine.work import Work

RETRY_AFTER_BROKEN_S = 5.0


class DeviceFaults:
    """`stage`: asked to work in smaller pieces, where it can. Not under the lock, but where that is said. `begin`, `end`, `went_well`,
    `end_turn` and `shrunk` are for the engine's thread; a pool's threads, too, find memory short or the device gone."""

    def __init__(self, in_flight: InFlight, stage: object, max_step_s: float) -> None:
        self._in_flight, self._stage = in_flight, stage
        self._health = Health(max_step_s)
        self._in_hand: Sequence[Work] = ()

    @property
    def is_broken(self) -> bool:
        return self._health.broken is not None

    def refuse(self) -> None:
        """Raises `Unavailable` where the device is broken. Under the lock or not."""
        if (why := self._health.broken) is not None:
            raise self._refusal(why)

    def check(self) -> None:
        """Notices a batch, or a preparation, that never ends. Any thread. Raises `Unavailable` as `refuse` does."""
        with self._in_flight.lock:
            self._health.check(self._in_flight.now())
            if self._health.broken is not None:
                self._break(self._health.broken, self._in_hand)
        self._in_flight.flush()
        self.refuse()

    def begin(self, now: float, *works: Work) -> None:
        """The stage is at work from now on, until `end`, on these beside what runs already."""
        self._in_hand = works
        self._health.begin(now)

    def end(self) -> None:
        self._in_hand = ()
        self._health.end()

    @contextmanager
    def preparing(self, work: Work) -> Iterator[None]:
        """A thread of a pool prepares it meanwhile."""
        with self._in_flight.lock:
            self._health.begin_preparing(work.id, self._in_flight.now())
        try:
            yield
        finally:
            with self._in_flight.lock:
                self._health.end_preparing(work.id)

    def is_preparing(self) -> bool:
        with self._in_flight.lock:
            return self._health.is_preparing()

    def went_well(self, cost: float) -> None:
        self._health.went_well()
        with self._in_flight.lock:
            self._in_flight.scheduler.bound.went_well(cost)

    def judge(self, works: Sequence[Work], error: TriptychError) -> None:
        """A batch of these failed as a whole. An error that stays fails everything in flight with `Broken`. Any thread."""
        if fault_of(error) is Fault.DEVICE:
            with self._in_flight.lock:
                self._break(str(error), works)
        elif isinstance(error, StageFailed):
            self._health.failed([work.id for work in works])

    def end_turn(self, still_works: Callable[[], bool]) -> None:
        """`still_works` does on the device what went well before: asked where nothing has worked for a while."""
        try:
            if not self._health.is_suspect:
                return
            if still_works():
                self._health.went_well()
                return
            with self._in_flight.lock:
                self._break(f"{MAX_FAILURES} batches in a row failed, and what went well before fails, too", ())
        finally:
            self.end()

    def ran_out(self) -> None:
        """After an error of memory, once nothing holds on to the error."""
        empty_cache(self._in_flight.identity.device)
        with self._in_flight.lock:
            self._in_flight.counters.out_of_memory_total += 1

    def shrunk(self) -> bool:
        """Whether the stage does its work in smaller pieces from now on."""
        return isinstance(self._stage, Shrinkable) and self._stage.shrink()

    def too_large(self, cost: float) -> TooLarge:
        engine = self._in_flight.identity
        free = free_bytes(engine.device)
        has = "has" if free is None else f"has free ({free / 2**20:,.0f} MiB)"
        return TooLarge(
            f"stage {engine.stage}: this request alone (work of {cost:g}) needs more memory than its device "
            f"{engine.device} {has}; ask for less (a smaller image, fewer tokens), or serve the stage on a larger device "
            "or with a smaller models.*.*.dtype"
        )

    def _refusal(self, why: str) -> Unavailable:
        engine = self._in_flight.identity
        return Unavailable(
            f"stage {engine.stage}: its device {engine.device} is broken, and its replica is about to be replaced; try again",
            retry_after_s=RETRY_AFTER_BROKEN_S,
            detail=why,
        )

    def _break(self, why: str, suspects: Sequence[Work]) -> None:
        """Nothing more will come of what is in flight. Under the lock. Idempotent."""
        engine = self._in_flight.identity
        if len(self._in_flight):
            logging.getLogger("triptych.stages").critical("stage %s: its device is broken: %s", engine.stage, why)
        self._health.lost(why)
        self._turn_away(why, suspects)
        self._in_flight.settle_everything(
            Broken(
                f"stage {engine.stage}: its device {engine.device} broke under the request; try again",
                retry_after_s=RETRY_AFTER_BROKEN_S,
                detail=f"replica {engine.replica}: {why}",
            )
        )
        self._in_flight.lock.notify()

    def _turn_away(self, why: str, suspects: Sequence[Work]) -> None:
        """Who only waited had no part in it, and is told what whoever comes now is told. Under the lock."""
        for entry in list(self._in_flight.scheduler.waiting):
            if entry.work not in suspects and not self._health.is_preparing(entry.work.id):
                self._in_flight.settle(entry.work, self._refusal(why))
