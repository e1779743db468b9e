"""One item at an engine, seen from the event loop: its inputs are resolved first, and whatever it turns out to lack meanwhile.

Decides that who waits for inputs, or for pages of its beginning, is known to no engine, how many of each tenant may wait, and how it is
counted what ends meanwhile. Knows no names and no cache: how an input is resolved, and where pages are, is handed in.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from stages.concurrency.together import stopped, together
from stages.contract.engine import Engine, Handle, Measuring, Receiver
from stages.contract.errors import DeadlineExceeded, InvalidRequest, Overloaded, QueueFull, TriptychError
from stages.contract.histogram import Histogram, HistogramCounts
from stages.contract.item import Item, Reply, StageReceipt
from stages.contract.limits import QueueLimits
from stages.contract.recipe import NO_INPUTS, Inputs, Recipe
from stages.contract.result import Result
from stages.contract.work import NO_WORK
from stages.engine.scheduling.room import Tally, has_room_for_another, open_to
from stages.engine.work import as_stage_error
from stages.host.deadlines import remaining_s, too_late
from stages.host.held_receipts import HeldReceipt, held
from stages.host.pages.finding import Beginning, StagePages

Resolve = Callable[[Recipe[Any], Item[Any]], Awaitable[Reply[Any]]]
"""The result of a recipe, on behalf of an item."""
_Had: TypeAlias = tuple[Result, Sequence[HeldReceipt]]
_Ahead: TypeAlias = dict[str, asyncio.Task[_Had]]
"""By name, what was begun before it is known whether it is needed."""


@dataclass(frozen=True, slots=True)
class AtHand:
    """Inputs, and the receipts of what made them. `beginning`: with its pages."""

    inputs: Inputs = NO_INPUTS
    receipts: tuple[HeldReceipt, ...] = ()
    beginning: Beginning = field(default_factory=Beginning)


@dataclass(slots=True)
class EndedWaiting:
    """What ended before the engine heard of it, by how."""

    rejected_total: int = 0
    expired_total: int = 0
    cancelled_total: int = 0
    failed_total: int = 0

    @contextmanager
    def counting(self, item: Item[Any]) -> Iterator[None]:
        try:
            yield
        except DeadlineExceeded:
            self.expired_total += 1
            raise
        except Overloaded:
            self.rejected_total += 1
            raise
        except asyncio.CancelledError:
            if remaining_s(item) == 0:  # whoever waited has heard so already
                self.expired_total += 1
            else:
                self.cancelled_total += 1
            raise
        except Exception:
            self.failed_total += 1
            raise


class HostedEngine:
    """An engine, and how many of its items may wait for their inputs. `pages`: where they begin (None: each at its own beginning).
    `arrived`, `num_arrived`: what the engine was given, since the start."""

    def __init__(self, engine: Engine[Any], resolve: Resolve, max_waiting: int, pages: StagePages | None = None) -> None:
        self.engine, self.pages = engine, pages
        self._resolve = resolve
        self._may_wait = QueueLimits(max_waiting)
        self._waiting: Tally[str] = Tally()
        self._ended_waiting = EndedWaiting()
        self.arrived, self.num_arrived = NO_WORK, 0
        self._first_event_seconds = Histogram()

    @property
    def stage(self) -> str:
        return self.engine.identity.stage

    def limit_queue(self, limits: QueueLimits) -> None:
        """Judges what comes from now on by these bounds."""
        self._may_wait = QueueLimits(limits.max_items)
        self.engine.limit_queue(limits)

    def metrics(self) -> dict[str, float]:
        pages = self.pages.metrics() if self.pages is not None else {}
        counters = {**self.engine.metrics(), **pages, "waiting_for_inputs": float(self._waiting.items)}
        for name, count in asdict(self._ended_waiting).items():
            counters[name] = counters.get(name, 0.0) + count
        return counters

    def histograms(self) -> Mapping[str, HistogramCounts]:
        told = dict(self.engine.histograms()) if isinstance(self.engine, Measuring) else {}
        if self.engine.result_type is None:
            told["first_event_seconds"] = self._first_event_seconds.counts()
        return told

    def began_to_answer(self, seconds: float) -> None:
        """There is the first event of an item, so long after it came."""
        self._first_event_seconds.observe(seconds)

    def submit(self, item: Item[Any], inputs: Inputs, receiver: Receiver) -> Handle:
        """Raises what the engine does."""
        handle = self.engine.submit(item, inputs, receiver)
        self.num_arrived += 1
        if item.work is not None:
            self.arrived += item.work
        return handle

    async def inputs(self, item: Item[Any]) -> AtHand:
        """Of what the item needs, what must be at hand when it is submitted, and pages of its beginning. Raises `QueueFull` where too many
        wait for what they can't do without."""
        ahead: _Ahead = {}
        try:
            beginning = await self._beginning(item, ahead)
        except BaseException:
            await stopped(*ahead.values())
            raise
        try:
            try:
                at_hand = await self._needed(item, beginning.pages, ahead)
            finally:
                if ahead:
                    await stopped(*ahead.values())  # what lies within pages after all
        except BaseException:
            beginning.let_go()
            raise
        return AtHand(beginning.pages.with_more(at_hand.inputs), at_hand.receipts, beginning)

    async def _beginning(self, item: Item[Any], ahead: _Ahead) -> Beginning:
        """While it is asked far away for pages, what is needed without them is begun, `ahead`: seldom are there any, and then they are
        found about as soon as it is known whether the other is remembered."""
        if self.pages is None:
            return Beginning()
        run = self.pages.run_of(item)
        if len(run.names) <= run.num_resident:
            return self.pages.as_held(run)
        if not has_room_for_another(self._waiting, item.tenant, open_to(item.priority, self._may_wait)):
            return self.pages.refused(run)
        with self._ended_waiting.counting(item), self._waits(item):
            if not self.pages.are_near(run):
                needed = {recipe.name: recipe for recipe in self.engine.needs(item.payload, item.tenant, NO_INPUTS)}
                ahead |= {name: asyncio.create_task(self._one(recipe, item)) for name, recipe in needed.items()}
            return await self.pages.find(item, run)

    async def _needed(self, item: Item[Any], pages: Inputs, ahead: _Ahead) -> AtHand:
        recipes = self.engine.needs(item.payload, item.tenant, pages)
        if not recipes:
            return AtHand()
        with self._ended_waiting.counting(item):
            if not has_room_for_another(self._waiting, item.tenant, open_to(item.priority, self._may_wait)):
                raise self._full()
            return await self.resolved(recipes, item, ahead)

    async def resolved(self, recipes: Sequence[Recipe[Any]], item: Item[Any], ahead: _Ahead | None = None) -> AtHand:
        """All of them at once; where one can't be had, none is waited for any more. `ahead`: what is under way already."""
        with self._waits(item):
            replies = await together(self._had(recipe, item, ahead or {}) for recipe in recipes)
        inputs = Inputs({recipe.name: result for recipe, (result, _) in zip(recipes, replies, strict=True)})
        return AtHand(inputs, tuple(receipt for _, receipts in replies for receipt in receipts))

    @contextmanager
    def _waits(self, item: Item[Any]) -> Iterator[None]:
        self._waiting.add(item.tenant)
        try:
            yield
        finally:
            self._waiting.remove(item.tenant)

    async def _had(self, recipe: Recipe[Any], item: Item[Any], ahead: _Ahead) -> _Had:
        begun = ahead.pop(recipe.name, None)
        if begun is not None:
            with suppress(Overloaded):  # there may be room by now
                return await begun
        return await self._one(recipe, item)

    async def _one(self, recipe: Recipe[Any], item: Item[Any]) -> _Had:
        try:
            reply = await self._resolve(recipe, item)
        except InvalidRequest as error:
            raise error.for_request(recipe.asked_as(error.param)) from error.__cause__
        return reply.value, held(reply.receipts, time.monotonic())

    def _full(self) -> QueueFull:
        return QueueFull(
            f"stage {self.stage}: {self._waiting.items} requests wait for what it needs and queue.max_items is "
            f"{self._may_wait.max_items}; try again",
            retry_after_s=max(1.0, self.engine.load().seconds_ahead),
        )


class Outlet(Protocol):
    """What becomes of a submission. Called on the event loop; may be told of an end again, which is not to be heard."""

    def at_hand(self, receipts: Sequence[HeldReceipt]) -> None:
        """Of inputs that it has now."""
        ...

    def events(self, events: Sequence[object]) -> None: ...

    def done(self, value: Result | None, receipt: StageReceipt) -> None: ...

    def failed(self, error: TriptychError) -> None: ...


class Submission:
    """A `Receiver` for one item of one engine. Of one event loop, on which it is made; as a receiver it may be called on any
    thread. `begin` it, then `end` it in any case."""

    def __init__(self, hosted: HostedEngine, item: Item[Any], outlet: Outlet) -> None:
        self._hosted, self._item, self._outlet = hosted, item, outlet
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self._came_at, self._answers = time.monotonic(), False
        self._handle: Handle | None = None
        self._supplying: asyncio.Task[None] | None = None
        self._beginning = Beginning()
        self._ended = False

    async def begin(self) -> None:
        """Returns once the engine has it. Raises any `TriptychError`."""
        at_hand = await self._hosted.inputs(self._item)
        self._beginning = at_hand.beginning
        self._outlet.at_hand(at_hand.receipts)
        self._handle = self._hosted.submit(self._item, at_hand.inputs, self)

    def end(self) -> None:
        self._ended = True
        self._beginning.let_go()
        if self._supplying is not None:
            self._supplying.cancel()
        if self._handle is not None:
            self._handle.cancel()

    def expire(self) -> None:
        if self._handle is not None:
            self._handle.expire()

    def amend(self, item: Item[Any]) -> bool:
        """Someone else wants its result, too. False: it has failed already."""
        if self._handle is not None:
            return self._handle.amend(item.priority, item.deadline)
        urgent, late = min(item.priority, self._item.priority), max(item.deadline, self._item.deadline)
        self._item = replace(self._item, priority=urgent, deadline=late)
        return True

    def too_late(self) -> DeadlineExceeded:
        if self._handle is not None:
            return self._handle.too_late()
        return too_late(f"its result, or what that needs, was still being looked up for stage {self._hosted.stage}")

    # ---- as a receiver ----

    def events(self, events: Sequence[object]) -> None:
        self._on_loop(self._pass_on, events)

    def missing(self, recipes: Sequence[Recipe[Any]]) -> None:
        self._on_loop(self._begin_supplying, recipes)

    def done(self, value: Result | None, receipt: StageReceipt) -> None:
        self._on_loop(self._outlet.done, value, self._beginning.told(receipt))

    def failed(self, error: TriptychError) -> None:
        self._on_loop(self._outlet.failed, error)

    def _on_loop(self, act: Callable[..., None], *values: object) -> None:
        if threading.get_ident() == self._thread:  # our engines' answers come on it, several with one wake-up
            act(*values)
        else:
            self._loop.call_soon_threadsafe(act, *values)

    # ---- the event loop ----

    def _pass_on(self, events: Sequence[object]) -> None:
        if not self._answers:
            self._answers = True
            self._hosted.began_to_answer(time.monotonic() - self._came_at)
        self._beginning.let_go()  # it has started
        self._outlet.events(events)

    def _begin_supplying(self, recipes: Sequence[Recipe[Any]]) -> None:
        if not self._ended:  # or nobody would call it off
            self._supplying = self._loop.create_task(self._supply(recipes))

    async def _supply(self, recipes: Sequence[Recipe[Any]]) -> None:
        handle = self._handle
        if handle is None:
            return  # it was refused
        try:
            at_hand = await self._hosted.resolved(recipes, self._item)
        except DeadlineExceeded:
            handle.expire()
        except Exception as error:
            handle.fail(as_stage_error(self._hosted.stage, error, self._item))
        else:
            self._outlet.at_hand(at_hand.receipts)
            handle.supply(at_hand.inputs)
