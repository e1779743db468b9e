"""Small real stages: an adder (one-shot) and a countdown (iterative). Whether their device is busy is up to the test, and so is when
an item is prepared.
"""

import math
import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cache.memory import MemoryTier
from cache.tier import UNLABELLED, Label
from stages.contract.errors import InvalidRequest, TriptychError
from stages.contract.item import StageReceipt
from stages.contract.recipe import NO_INPUTS, Inputs, InputsMissing, Recipe
from stages.contract.result import Arrays, Result
from stages.contract.stage import Share, Stepped
from stages.engine.work import Clock

PATIENCE_S = 30.0  # a test that waits longer than this for another thread has failed


class Gate:
    """Where a fake's device stops until the test lets it pass. Open unless `closed`."""

    def __init__(self, *, closed: bool = False) -> None:
        self._changed = threading.Condition()
        self._permits: float = 0 if closed else math.inf
        self._arrivals = 0
        self.timed_out = False

    def pass_through(self) -> None:
        with self._changed:
            self._arrivals += 1
            self._changed.notify_all()
            self._wait_until(lambda: self._permits > 0)
            self._permits -= 1

    def close(self) -> None:
        with self._changed:
            self._permits = 0

    def let(self, count: int) -> None:
        """Lets the next `count` pass."""
        with self._changed:
            self._permits += count
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._permits = math.inf
            self._changed.notify_all()

    def wait_for(self, arrivals: int) -> None:
        """Returns once so many have come to the gate, in all."""
        with self._changed:
            self._wait_until(lambda: self._arrivals >= arrivals)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        if not self._changed.wait_for(condition, PATIENCE_S):
            self.timed_out = True
            raise TimeoutError("nobody came")


class HandClock:
    """A clock that the test moves. Wall clock and monotonic clock differ by a constant, as they do in life."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clock = Clock(monotonic=lambda: self.now, wall=lambda: self.now + 1e9)

    def deadline(self, in_s: float) -> float:
        """Wall clock."""
        return self.clock.wall() + in_s


@dataclass(frozen=True)
class Total(Result):
    """What the adder makes. `total`: [] int64."""

    total: NDArray[np.int64]

    @classmethod
    def of_int(cls, total: int) -> "Total":
        return cls(np.asarray(total))


@dataclass(frozen=True)
class Add:
    """For the adder: `a` + `b` + the results of `plus`."""

    makes: ClassVar[type[Result]] = Total
    a: int
    b: int = 0
    plus: tuple[Recipe[Total], ...] = ()

    def needs(self) -> Sequence[Recipe[Any]]:
        return self.plus


@dataclass(frozen=True)
class Sum:
    """What the adder prepares."""

    total: int
    cost: float


class Adder:
    """Adds. An item costs abs(a), and shares a batch with items whose sum has the same sign; a = 13 is bad luck on the device,
    b = 13 can't be prepared, and over 1000 nothing is taken.
    """

    device = "cpu"
    result_type = Total

    def __init__(self, *, run_gate: Gate | None = None, prepare_gate: Gate | None = None) -> None:
        self.run_gate = run_gate or Gate()
        self.prepare_gate = prepare_gate or Gate()
        self.batches: list[list[int]] = []
        self.num_prepared = 0

    def check(self, payload: Add) -> None:
        if payload.a > 1000:
            raise InvalidRequest(f"{payload.a} is over 1000", param="a")

    def weigh(self, payload: Add) -> float:
        return float(abs(payload.a))

    def prepare(self, payload: Add, inputs: Inputs) -> Sum:
        self.prepare_gate.pass_through()
        self.num_prepared += 1
        if payload.b == 13:
            raise InvalidRequest("13 can't be added", param="b")
        plus = sum(int(inputs[recipe].total) for recipe in payload.plus)
        return Sum(payload.a + payload.b + plus, float(abs(payload.a)))

    def batch_key(self, item: Sum) -> Hashable:
        return item.total >= 0

    def cost(self, item: Sum) -> float:
        return item.cost

    def run(self, batch: Sequence[Sum]) -> Sequence[Total]:
        self.run_gate.pass_through()
        self.batches.append([item.total for item in batch])
        if any(item.cost == 13 for item in batch):
            raise RuntimeError("the device has bad luck")
        return [Total.of_int(item.total) for item in batch]


@dataclass(frozen=True)
class Ratio(Result):
    """What the divider makes. `ratio`: [] float32."""

    ratio: NDArray[np.float32]


class Divider(Adder):
    """Divides 1 by each sum, whatever that may be; `is_mad`: by 0."""

    result_type: Any = Ratio
    is_mad = False

    def run(self, batch: Sequence[Sum]) -> Any:
        super().run(batch)
        with np.errstate(divide="ignore"):
            return [Ratio(np.asarray(np.float32(1) / np.float32(0 if self.is_mad else item.total))) for item in batch]


@dataclass(frozen=True)
class CountFrom:
    """Counts `start` - 1, ..., 0, from as much higher as the results of `plus` are. Rows of one `key` share a step. Fails after
    the event `fails_at`."""

    start: int
    key: str = "a"
    fails_at: int | None = None
    breaks_step_at: int | None = None
    breaks_suspending: bool = False
    plus: tuple[Recipe[Total], ...] = ()

    def needs(self) -> Sequence[Recipe[Any]]:
        return self.plus


@dataclass(frozen=True)
class PreparedCount:
    """`key` and `cost` of its first step; `given`: the totals at hand, by their names."""

    key: str
    cost: float
    given: Mapping[str, int]


@dataclass(eq=False)
class Count:
    payload: CountFrom
    left: int
    steps: list[int] = field(default_factory=list)


class Countdown:
    """Has `slots` rows at most; takes up to 100. What it `knows` of results, by their names, it need not be given."""

    device = "cpu"

    def __init__(self, *, slots: int = 4, gate: Gate | None = None, prepare_gate: Gate | None = None) -> None:
        self.gate = gate or Gate()
        self.prepare_gate = prepare_gate or Gate()
        self.knows: dict[str, int] = {}
        self.num_prepared = 0
        self.slots = slots
        self.steps: list[list[CountFrom]] = []
        self.started: list[CountFrom] = []
        self.finished: list[CountFrom] = []
        self.running: list[Count] = []
        self.finish_gate = Gate()
        self.num_finish_calls = 0

    def check(self, payload: CountFrom) -> None:
        if payload.start > 100:
            raise InvalidRequest(f"{payload.start} is over 100", param="start")

    def weigh(self, payload: CountFrom) -> float:
        return 1.0

    def needs(self, payload: CountFrom, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        return [recipe for recipe in payload.plus if recipe.name not in self.knows]

    def resident_names(self) -> Collection[str]:
        return self.knows.keys()

    def prepare(self, payload: CountFrom, inputs: Inputs) -> PreparedCount:
        self.prepare_gate.pass_through()
        self.num_prepared += 1
        if payload.key == "unprepared":
            raise InvalidRequest("it can't be prepared", param="key")
        given = {recipe.name: int(inputs[recipe].total) for recipe in payload.plus if recipe in inputs}
        return PreparedCount(payload.key, self.weigh(payload), given)

    def share(self, prepared: PreparedCount) -> Share:
        return Share(prepared.key, prepared.cost)

    def can_start(self, payload: CountFrom) -> bool:
        return len(self.running) < self.slots

    def start(self, payload: CountFrom, prepared: PreparedCount) -> Count:
        if payload.start < 0:
            raise RuntimeError("can't count from below zero")
        known = {**self.knows, **prepared.given}
        if missing := [recipe for recipe in payload.plus if recipe.name not in known]:
            raise InputsMissing(missing)
        row = Count(payload, payload.start + sum(known[recipe.name] for recipe in payload.plus))
        self.started.append(payload)
        self.running.append(row)
        return row

    def suspend(self, row: Count) -> int:
        if row.payload.breaks_suspending:
            raise RuntimeError("it can't stop counting")
        return row.left

    def resume(self, payload: CountFrom, prepared: PreparedCount, suspended: int) -> Count:
        row = self.start(payload, prepared)
        row.left = suspended
        return row

    def batch_key(self, row: Count) -> Hashable:
        return row.payload.key

    def cost(self, row: Count) -> float:
        return 1.0

    def step(self, rows: Sequence[Count]) -> Sequence[Stepped]:
        self.gate.pass_through()
        self.steps.append([row.payload for row in rows])
        for row in rows:
            row.left -= 1
        if any(row.left == row.payload.breaks_step_at for row in rows):
            raise RuntimeError("the step broke")
        return [self._stepped(row) for row in rows]

    def _stepped(self, row: Count) -> Stepped:
        failed = row.left == row.payload.fails_at
        return Stepped((row.left,), done=row.left == 0, error=ValueError("the row broke") if failed else None)

    def finish(self, row: Count) -> None:
        self.num_finish_calls += 1
        self.running.remove(row)
        self.finished.append(row.payload)
        self.finish_gate.pass_through()


class FarTier(MemoryTier):
    """A tier that takes its time, as Redis does, without Redis: a gate before every lookup, and one before every write."""

    name = "redis"

    def __init__(self) -> None:
        super().__init__(2**20)
        self.get_gate = Gate()
        self.put_gate = Gate()

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.get_gate.pass_through()
        return super().get_many(keys, label)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        self.put_gate.pass_through()
        super().put_many(values, label)


class Inbox:
    """A `Receiver` for a plain thread."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.value: Result | None = None
        self.receipt: StageReceipt | None = None
        self.error: TriptychError | None = None
        self.missed: list[tuple[str, ...]] = []
        self.num_endings = 0
        self._changed = threading.Condition()

    def events(self, events: Sequence[object]) -> None:
        self.seen.extend(events)

    def missing(self, recipes: Sequence[Recipe[Any]]) -> None:
        with self._changed:
            self.missed.append(tuple(recipe.name for recipe in recipes))
            self._changed.notify_all()

    def done(self, value: Result | None, receipt: StageReceipt) -> None:
        self.value, self.receipt = value, receipt
        self._end()

    def failed(self, error: TriptychError) -> None:
        self.error = error
        self._end()

    def wait(self) -> "Inbox":
        """Returns once it has ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.num_endings > 0, PATIENCE_S):
                raise TimeoutError("no answer came")
        return self

    def wait_for_missing(self, count: int = 1) -> tuple[str, ...]:
        """The names last asked for, once inputs were missing so often."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.missed) >= count, PATIENCE_S):
                raise TimeoutError("nothing was missing")
            return self.missed[-1]

    @property
    def total(self) -> int:
        """The adder's answer."""
        self.wait()
        if self.error is not None:
            raise self.error
        assert isinstance(self.value, Total)
        return int(self.value.total)

    def _end(self) -> None:
        with self._changed:
            self.num_endings += 1
            self._changed.notify_all()
