"""An engine that schedules itself: it counts as `Countdown` does, one item after the other, whoever came last first.

It shares nothing with `stages/engine/`, as an engine that someone else wrote shares nothing with it: a proof that
`stages/contract/engine.py` says all that whoever uses an engine may rely on.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.contract.engine import EngineIdentity, Load, Receiver
from stages.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, QueueFull, TriptychError, Unavailable
from stages.contract.item import DEFAULT_TENANT, Item, StageReceipt
from stages.contract.limits import QueueLimits
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from tests.stages.fakes import CountFrom, Gate, HandClock


@dataclass(eq=False)
class Request:
    item: Item[CountFrom]
    inputs: Inputs
    receiver: Receiver
    deadline: float
    ended: bool = False
    failed: bool = False
    is_away: bool = False


class RequestHandle:
    """The `Handle` of one request."""

    def __init__(self, engine: "SelfSchedulingEngine", request: Request) -> None:
        self._engine, self._request = engine, request

    def supply(self, inputs: Inputs) -> None:
        self._engine.supply(self._request, inputs)

    def fail(self, error: TriptychError) -> None:
        self._engine.end(self._request, error)

    def cancel(self) -> None:
        self._engine.end(self._request, Cancelled("it was cancelled"))

    def expire(self) -> None:
        self._engine.end(self._request, self.too_late())

    def amend(self, priority: int, deadline: float) -> bool:
        self._request.deadline = max(self._request.deadline, deadline)
        return not self._request.failed

    def too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded("the request's time is up: there were too many others")


class SelfSchedulingEngine:
    """An `Engine`. Receivers are called under its lock, which may be taken again."""

    def __init__(self, *, gate: Gate, time: HandClock, queue: QueueLimits = QueueLimits()) -> None:
        self.knows: dict[str, int] = {}
        self._gate, self._time, self._queue = gate, time, queue
        self._changed = threading.Condition(threading.RLock())
        self._waiting: list[Request] = []
        self._live: set[Request] = set()
        self._running: Request | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def identity(self) -> EngineIdentity:
        return EngineIdentity("count", "cpu")

    @property
    def result_type(self) -> None:
        return None

    @property
    def is_broken(self) -> bool:
        return False

    @property
    def paging(self) -> None:
        return None

    def needs(self, payload: CountFrom, tenant: str = DEFAULT_TENANT, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        if payload.plus:
            self._refuse(payload)
        return self._lacks(payload)

    def _lacks(self, payload: CountFrom) -> list[Recipe[Any]]:
        return [recipe for recipe in payload.plus if recipe.name not in self.knows]

    def _refuse(self, payload: CountFrom) -> None:
        if payload.start > 100:
            raise InvalidRequest(f"{payload.start} is over 100", param="start")
        with self._changed:
            self.check()
            if len(self._waiting) >= self._queue.max_items:
                raise QueueFull(f"{len(self._waiting)} wait", retry_after_s=1)

    def residency(self) -> Collection[str]:
        return self.knows.keys()

    def limit_queue(self, limits: QueueLimits) -> None:
        self._queue = limits

    def submit(self, item: Item[CountFrom], inputs: Inputs, receiver: Receiver) -> RequestHandle:
        with self._changed:
            self._refuse(item.payload)
            request = Request(item, inputs, receiver, item.deadline)
            if self._is_late(request):
                raise DeadlineExceeded("the request's time is up: it came too late")
            self._live.add(request)
            self._waiting.append(request)
            self._changed.notify()
        return RequestHandle(self, request)

    def supply(self, request: Request, inputs: Inputs) -> None:
        with self._changed:
            if request.is_away and not self._ends_in_time(request):
                return
            if request.is_away:
                request.is_away, request.inputs = False, request.inputs.with_more(inputs)
                self._waiting.append(request)
                self._changed.notify()

    def end(self, request: Request, error: TriptychError | None) -> None:
        """`None`: it is done. The first word is the last."""
        with self._changed:
            if request.ended:
                return
            if isinstance(error, Cancelled) and self._is_late(request):
                error = DeadlineExceeded("the request's time is up: nobody waits for it")
            request.ended, request.is_away, request.failed = True, False, error is not None
            self._live.discard(request)
            self._waiting = [other for other in self._waiting if other is not request]
            if error is None:
                request.receiver.done(None, StageReceipt("count"))
            else:
                request.receiver.failed(error)

    def load(self) -> Load:
        with self._changed:
            return Load(len(self._waiting), int(self._running is not None), 0.0)

    def metrics(self) -> Mapping[str, float]:
        load = self.load()
        return {"queued": float(load.queued), "running": float(load.running)}

    def check(self) -> None:
        if self._closing:
            raise Unavailable("it is shutting down", retry_after_s=1)

    def close(self, timeout_s: float | None = None) -> None:
        with self._changed:
            self._closing = True
            for request in list(self._live):
                self.end(request, Unavailable("it is shutting down", retry_after_s=1))
            self._changed.notify()
        self._thread.join(timeout_s)

    def _is_late(self, request: Request) -> bool:
        return self._time.clock.wall() >= request.deadline

    def _ends_in_time(self, request: Request) -> bool:
        if self._is_late(request):
            self.end(request, DeadlineExceeded("the request's time is up: it took too long"))
        return not request.ended

    def _run(self) -> None:
        while (request := self._next()) is not None:
            self._count(request)
            with self._changed:
                self._running = None

    def _next(self) -> Request | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return None
            self._running = self._waiting.pop()
            return self._running

    def _count(self, request: Request) -> None:
        payload = request.item.payload
        with self._changed:
            missing = [recipe for recipe in self._lacks(payload) if recipe not in request.inputs]
            if missing and self._ends_in_time(request):
                request.is_away, self._running = True, None
                request.receiver.missing(missing)
        if missing:
            return
        totals = (self.knows.get(recipe.name) or int(request.inputs[recipe].total) for recipe in payload.plus)
        for left in reversed(range(payload.start + sum(totals))):
            self._gate.pass_through()
            with self._changed:
                if not self._ends_in_time(request):
                    return
                request.receiver.events([left])
        self.end(request, None)
