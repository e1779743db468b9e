"""The turns of a device in virtual time: what the engines do (`stages/engine/{one_shot,iterative}.py`), with the same schedulers, and
with a step that takes as long as its `Device` says instead of a stage that computes.

Decides neither batches nor order, nor which prompts advance: those are the schedulers' and `stages/llm/prefill.py`'s. Knows no calls
and no routing. Preparing takes no turn here: an item is submitted once it is prepared.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum

from pipelines.planning.simulation.engines.clock import DEVICE, Clock
from pipelines.planning.simulation.engines.devices import Device, DeviceTime
from pipelines.planning.simulation.engines.folding import FoldingScheduler
from stages.contract.cost import Speed, shared_s
from stages.contract.engine import Load
from stages.contract.item import DEFAULT_TENANT
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.stage import Share
from stages.contract.work import Work
from stages.engine.scheduling.learned_speed import LearnedSpeed, MeasuredSteps
from stages.engine.scheduling.scheduler import Batch, Entry, OneShotScheduler, Scheduler
from stages.llm.prefill import share_budget


class Ended(Enum):
    """How an item left its engine."""

    DONE = "done"
    LATE = "late"
    LOST = "lost"  # with its replica


@dataclass(slots=True, eq=False)
class Piece:
    """One item in an engine. `amount`: of one step; `prompt`, `steps`: what is left. `expected`: what was foreseen of all of it.
    `ended`: is told how. `first_at`: when its first step (an LLM's first token) was done. `expected_s`: how long it was expected to take
    when it was submitted; `is_typical`: as `LearnedSpeed.took` has it."""

    id: str
    amount: float
    steps: int
    prompt: int
    expected: Work
    ended: "Callable[[Piece, Ended], None]"
    key: Hashable = None
    priority: int = 0
    deadline: float = math.inf
    tenant: str = DEFAULT_TENANT
    request: str = ""
    first_at: float = math.inf
    submitted_at: float = 0.0
    expected_s: float | None = None
    is_typical: bool = True


class VirtualEngine(ABC):
    """One stage in one replica."""

    def __init__(
        self, clock: Clock, who: int, scheduler: Scheduler[Piece], device: Device, speed: Speed, chunk: int = 1
    ) -> None:
        """`speed`: as it really is, whatever the scheduler knows of it."""
        self._clock, self._who, self._scheduler, self._device = clock, who, scheduler, device
        self._time = DeviceTime(device, speed)
        device.has(self)
        self._chunk = chunk
        self._is_busy = self._is_dead = False

    def submit(self, piece: Piece) -> None:
        """It is prepared. What runs goes on to the end of its step. Raises `QueueFull`."""
        self._catch_up()
        now, cost = self._clock.now, self._cost(piece)
        foreseen, load = self._scheduler.speed.foreseen(cost, piece.expected), self._scheduler.load(now)
        self._scheduler.add(
            Entry(
                piece.id,
                piece,
                piece.key,
                cost,
                piece.priority,
                piece.deadline,
                arrival=now,
                tenant=piece.tenant,
                request=piece.request,
                expected=foreseen,
            )
        )
        piece.submitted_at = now
        piece.is_typical = load.num_items > 0 and piece.priority <= 0
        alone_s = load.finish_s(foreseen, piece.priority, piece.tenant)
        if alone_s is not None:
            piece.expected_s = shared_s(alone_s, self._device.others_s(self))
        if self._is_busy:
            self.interrupt()
        else:
            self._device.take(self)

    def load(self) -> Load:
        """What the engine tells of itself now."""
        self._catch_up()
        return self._scheduler.load(self._clock.now)

    def die(self) -> None:
        """Everything in hand is lost."""
        self._catch_up()
        self._is_dead = True
        for entry in self._scheduler.clear():
            entry.work.ended(entry.work, Ended.LOST)

    def _cost(self, piece: Piece) -> float:
        """Of its next step."""
        return float(min(piece.prompt, self._chunk)) if piece.prompt else piece.amount

    def _done(self, pieces: Sequence[Piece]) -> None:
        now = self._clock.now
        for piece in pieces:
            if piece.expected_s is not None:
                self._scheduler.speed.took(piece.expected_s, now - piece.submitted_at, is_typical=piece.is_typical)
        for piece in pieces:
            piece.ended(piece, Ended.DONE)

    def _expired(self, entries: Sequence[Entry[Piece]]) -> None:
        for entry in entries:
            entry.work.ended(entry.work, Ended.LATE)

    @abstractmethod
    def turn(self) -> None:
        """The device is free, and it is this stage's turn."""

    @abstractmethod
    def interrupt(self) -> None:
        """What was sure isn't any more, from the end of the step that is under way."""

    @abstractmethod
    def _catch_up(self) -> None:
        """With steps that have ended and were not told of yet."""


class VirtualOneShotEngine(VirtualEngine):
    """As `OneShotEngine`."""

    def __init__(
        self,
        clock: Clock,
        who: int,
        name: str,
        batch: BatchLimits,
        queue: QueueLimits,
        device: Device,
        speed: Speed,
        profile: MeasuredSteps | None,
    ) -> None:
        learned = LearnedSpeed(is_one_shot=True)
        learned.begin_with(profile)
        self._batches: OneShotScheduler[Piece] = OneShotScheduler(batch, queue, name=name, speed=learned)
        super().__init__(clock, who, self._batches, device, speed)

    def turn(self) -> None:
        now = self._clock.now
        batch = self._batches.next_batch(now)
        self._expired(batch.expired)
        self._is_busy = bool(batch.entries)
        if not self._is_busy:
            self._device.leave()
            return
        self._time.draw()
        seconds = self._time.step_s(batch.cost)
        self._clock.at(now + seconds, DEVICE, self._who, self._ran, batch, now, seconds)

    def _ran(self, batch: Batch[Piece], began: float, seconds: float) -> None:
        if self._is_dead:
            return
        pieces = [entry.work for entry in batch.entries]
        self._time.count(began, seconds, 1, [piece.amount for piece in pieces])
        self._batches.complete([piece.id for piece in pieces], seconds)
        for piece in pieces:
            piece.first_at = self._clock.now
        self._done(pieces)
        self._device.pass_on(self)

    def interrupt(self) -> None:
        """A batch that runs is not joined."""

    def _catch_up(self) -> None:
        """A batch is one step."""


class VirtualIterativeEngine(VirtualEngine):
    """As `IterativeEngine`. `chunk`: of prompts, so much is read in a step. `is_shared`: as `FoldingScheduler` has it.
    `folds`: steps that nobody joins or leaves are taken at once."""

    def __init__(
        self,
        clock: Clock,
        who: int,
        name: str,
        batch: BatchLimits,
        queue: QueueLimits,
        device: Device,
        speed: Speed,
        profile: MeasuredSteps | None,
        *,
        chunk: int,
        is_shared: bool,
        folds: bool = True,
    ) -> None:
        learned = LearnedSpeed()
        learned.begin_with(profile)
        self._rows: FoldingScheduler[Piece] = FoldingScheduler(batch, queue, learned, name=name, is_shared=is_shared)
        super().__init__(clock, who, self._rows, device, speed, chunk)
        self._folds = folds
        self._batch: Batch[Piece] = Batch()
        self._amounts: Sequence[float] = ()  # of the batch's rows, in the step under way
        self._members: frozenset[Piece] = frozenset()  # of the step before, in any order
        self._amount_before = 0.0
        self._began = self._step_s = 0.0
        self._num_steps = 0  # the one that is under way, and the sure ones after it
        self._serial = 0  # of the event that ends them

    def turn(self) -> None:
        now = self._clock.now
        self._expired(self._rows.expire(now))
        while self._start_next(now):
            pass
        self._batch = self._rows.next_batch(now)
        self._expired(self._batch.expired)
        self._is_busy = bool(self._batch.entries)
        if self._is_busy:
            self._step(now)
        else:
            self._device.leave()

    def _start_next(self, now: float) -> bool:
        if not self._rows.waiting.has_ready():  # asking would change nothing
            return False
        entry = self._rows.next_to_start(now)
        if entry is None:
            return self._make_room(now)
        self._rows.start(entry.id, Share(entry.batch_key, self._cost(entry.work)))
        return True

    def _make_room(self, now: float) -> bool:
        entry = self._rows.preempt(now)
        if entry is not None:
            entry.work.is_typical = False
        return entry is not None

    def _step(self, now: float) -> None:
        pieces = [entry.work for entry in self._batch.entries]
        reading = [piece.prompt for piece in pieces if piece.prompt]
        self._amounts = self._read(pieces, reading) if reading else [piece.amount for piece in pieces]
        amount, members = math.fsum(self._amounts), frozenset(pieces)
        if amount != self._amount_before or members != self._members:
            self._time.draw()
            self._amount_before, self._members = amount, members
        self._began, self._step_s, self._num_steps = now, self._time.step_s(amount), 1
        if self._folds and not reading and (most := min(piece.steps for piece in pieces)) > 1:
            self._num_steps = self._rows.num_alike(self._batch, now, self._step_s, most)
        self._end_later()

    def _read(self, pieces: Sequence[Piece], reading: Sequence[int]) -> Sequence[float]:
        """What each brings to a step; prompts what their budget gives them."""
        shares = iter(share_budget(reading, self._chunk))
        return [float(next(shares)) if piece.prompt else piece.amount for piece in pieces]

    def _end_later(self) -> None:
        self._serial += 1
        ends = self._began + self._num_steps * self._step_s
        self._clock.at(ends, DEVICE, self._who, self._stepped, self._serial)

    def interrupt(self) -> None:
        """Steps that were sure end with the one that is under way."""
        if self._num_steps > 1:
            num_ended = self._num_ended()
            is_between = num_ended * self._step_s < self._clock.now - self._began
            if (num_steps := max(1, num_ended + is_between)) < self._num_steps:
                self._num_steps = num_steps
                self._end_later()

    def _num_ended(self) -> int:
        """Whole steps since they began. Exact: all times are whole numbers of quanta."""
        passed = self._clock.now - self._began
        num = int(passed / self._step_s)
        while (num + 1) * self._step_s <= passed:
            num += 1
        while num * self._step_s > passed:
            num -= 1
        return num

    def _catch_up(self) -> None:
        """But for the last step, of which its own end tells."""
        if self._is_busy and self._num_steps > 1:
            self._advance(min(self._num_ended(), self._num_steps - 1))

    def _stepped(self, serial: int) -> None:
        if serial != self._serial or self._is_dead:
            return
        self._advance(self._num_steps - 1)
        self._end_step()
        self._device.pass_on(self)

    def _advance(self, num_steps: int) -> None:
        """By so many steps that were alike, with another one to follow."""
        if num_steps <= 0:
            return
        self._time.count(self._began, self._step_s, num_steps, self._amounts)
        first_at = self._began + self._step_s
        for entry in self._batch.entries:
            piece = entry.work
            piece.steps -= num_steps
            if first_at < piece.first_at:
                piece.first_at = first_at
        self._batch = Batch(self._rows.repeat(num_steps, self._began, self._step_s))
        self._amounts = [entry.work.amount for entry in self._batch.entries]
        self._began += num_steps * self._step_s
        self._num_steps -= num_steps

    def _end_step(self) -> None:
        """Who is done with it leaves, and the others say what they need of their next one."""
        self._time.count(self._began, self._step_s, 1, self._amounts)
        now = self._clock.now
        done: list[Piece] = []
        shares: dict[str, Share] = {}
        worked: dict[str, float] = {}
        for entry, amount in zip(self._batch.entries, self._amounts, strict=True):
            piece = entry.work
            if piece.prompt:
                piece.prompt -= int(amount)
                shares[piece.id] = Share(piece.key, self._cost(piece))
                if piece.prompt:
                    worked[piece.id] = amount
                    continue
            piece.steps -= 1
            if now < piece.first_at:
                piece.first_at = now
            if not piece.steps:
                done.append(piece)
        ids = [entry.id for entry in self._batch.entries]
        self._rows.complete(ids, self._step_s, done={piece.id for piece in done}, shares=shares, worked=worked)
        self._done(done)
