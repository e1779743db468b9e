"""Who makes a result: an engine in this process, or a stage somewhere else.

Decides how one result is asked of either, and what is known of where it is remembered. Knows no cache; who shares a result, and
whether it is remembered already, is for `stages/host/resolving.py`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from stages.contract.errors import DeadlineExceeded, InputUnavailable, StageFailed, TriptychError, Unavailable
from stages.contract.item import Item, Reply, StageReceipt
from stages.contract.result import Result
from stages.host.deadlines import too_late
from stages.host.held_receipts import HeldReceipt, handed_on
from stages.host.remembered.origin import Origin
from stages.host.submission import HostedEngine, Submission


class Computation(Protocol):
    """One result on its way, on behalf of everyone who waits for it."""

    async def run(self) -> Reply[Any]: ...

    def amend(self, item: Item[Any]) -> bool:
        """Someone else wants it, too. False: this is of no use to them."""
        ...

    def too_late(self) -> DeadlineExceeded:
        """Says where the time went."""
        ...


class Maker(Protocol):
    """Of one stage's results."""

    @property
    def stage(self) -> str: ...

    @property
    def is_here(self) -> bool:
        """Whether they are made, and therefore remembered, by this process."""
        ...

    def origins(self) -> Sequence[Origin]:
        """Who may have made what is remembered, as far as that is known."""
        ...

    def result_type(self, item: Item[Any]) -> type[Result]: ...

    def computation(self, item: Item[Any]) -> Computation:
        """Not begun."""
        ...


class StageCaller(Protocol):
    """Whoever reaches stages that are not in this process."""

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        """Cancelling the task withdraws it. Raises any `TriptychError`."""
        ...


@runtime_checkable
class KnowsPools(Protocol):
    """What a `StageCaller` may be, too."""

    def pools(self, stage: str) -> Collection[str]:
        """The stage's pools as they are now, by the names that receipts have."""
        ...


class EngineMaker:
    """`Maker` over an engine in this process."""

    is_here = True

    def __init__(self, hosted: HostedEngine, result_type: type[Result], origin: Origin) -> None:
        self.stage = hosted.stage
        self._hosted, self._result_type, self._origin = hosted, result_type, origin

    def origins(self) -> Sequence[Origin]:
        return (self._origin,)

    def result_type(self, item: Item[Any]) -> type[Result]:
        return self._result_type

    def computation(self, item: Item[Any]) -> "EngineComputation":
        return EngineComputation(self._hosted, item, self._origin.key)


class EngineComputation:
    """`Computation`, and the `Outlet` of its submission."""

    def __init__(self, hosted: HostedEngine, item: Item[Any], origin: str) -> None:
        self._origin = origin
        self._submission = Submission(hosted, item, self)
        self._inputs: list[HeldReceipt] = []
        self._reply: asyncio.Future[Reply[Any]] = asyncio.get_running_loop().create_future()
        self.amend, self.too_late = self._submission.amend, self._submission.too_late

    async def run(self) -> Reply[Any]:
        try:
            await self._submission.begin()
            return await self._reply
        finally:
            self._submission.end()

    def at_hand(self, receipts: Sequence[HeldReceipt]) -> None:
        self._inputs.extend(receipts)

    def events(self, events: Sequence[object]) -> None:
        """One-shot stages have none."""

    def done(self, value: Result | None, receipt: StageReceipt) -> None:
        if value is None:
            self.failed(StageFailed(f"stage {receipt.stage} gave no result"))
        elif not self._reply.done():
            self._reply.set_result(Reply(value, receipt, handed_on(self._inputs, time.monotonic()), self._origin))

    def failed(self, error: TriptychError) -> None:
        if not self._reply.done():
            self._reply.set_exception(error)


class ElsewhereMaker:
    """`Maker` over a stage in another process. Who makes its results there is known from the first answer on: its pools may differ in
    dtype, and what any of them has made will do. Of a pool, and of one dtype, only whoever answered last counts: the others compute in
    another dtype now, or their weights have been replaced. A pool that is no longer there counts for nothing."""

    is_here = False

    def __init__(self, stage: str, caller: StageCaller) -> None:
        self.stage = stage
        self._caller = caller
        self._origins: dict[str, Origin] = {}  # by pool; where nobody says which it was, by dtype

    def origins(self) -> Sequence[Origin]:
        """The latest first."""
        there = self._caller.pools(self.stage) if isinstance(self._caller, KnowsPools) else self._origins
        return tuple(origin for pool, origin in reversed(self._origins.items()) if pool in there)

    def result_type(self, item: Item[Any]) -> type[Result]:
        made: type[Result] = item.payload.makes
        return made

    def computation(self, item: Item[Any]) -> "CallElsewhere":
        return CallElsewhere(self.stage, item, self._called)

    async def _called(self, item: Item[Any]) -> Reply[Any]:
        reply = await self._caller.call(self.stage, item)
        if reply.origin is not None:
            answered = Origin(reply.origin, reply.receipt.device, reply.receipt.dtype)
            pool = reply.receipt.pool or answered.dtype
            others = {
                name: origin for name, origin in self._origins.items() if name != pool and _may_both_be(origin, answered)
            }
            self._origins = others | {pool: answered}  # the latest is the last
        return reply


def _may_both_be(one: Origin, other: Origin) -> bool:
    """Of pools of one stage: those of one dtype agree."""
    return one.dtype != other.dtype or one.key == other.key


class CallElsewhere:
    """`Computation`: one call. Its deadline is that of whoever began it: others have it made again when that has passed."""

    def __init__(self, stage: str, item: Item[Any], call: Callable[[Item[Any]], Awaitable[Reply[Any]]]) -> None:
        self._stage, self._item, self._call = stage, item, call

    async def run(self) -> Reply[Any]:
        try:
            return await self._call(self._item)
        except Unavailable as error:
            raise InputUnavailable(error.message, retry_after_s=error.retry_after_s, detail=error.detail) from None

    def amend(self, item: Item[Any]) -> bool:
        """A more urgent one asks by itself, and joins where it is made."""
        return item.priority >= self._item.priority

    def too_late(self) -> DeadlineExceeded:
        return too_late(f"its result was still being asked for at stage {self._stage}")
