"""How many bytes of bodies one HTTP process holds at a time: of all requests together, as they arrive.

What a request has sent, or has had fetched (`count_fetched`), counts until its answer is out, since its images are needed so long; its
first 64 KiB are free, so that text is never refused because of other people's images. Who finds no room waits for a moment, and is
refused then. While somebody waits, whoever has been sending for long makes room: a slow client holds nothing for ever.

Whose turn it is, and how much of it several tenants may each take, is `stages/concurrency/fair_room.py`: one whole body always.

Knows ASGI messages and nothing of what is in them. Serve's proxy, which reads ahead of the app, has a budget of its own
(`proxy_bodies.py`).
"""

import asyncio
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stages.concurrency.fair_room import FairRoom, Waiting
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import Overloaded

FREE_BYTES = 64 * 1024
MAX_WAIT_S = 5.0
PATIENCE_S = 10.0
"""How long a body may take to arrive before others that find no room go first."""
RETRY_AFTER_S = 1.0


class BodyBudget:
    """On one event loop. Bytes. `largest`: of one body. Not shared: there is one tenant, who may have all of it."""

    def __init__(
        self,
        max_bytes: int,
        *,
        largest: int = 0,
        is_shared: bool = False,
        max_wait_s: float = MAX_WAIT_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._room = FairRoom(max_bytes, largest=largest, is_shared=is_shared)
        self._max_wait_s, self._patience_s = max_wait_s, patience_s
        self._let_in: dict[Waiting, asyncio.Event] = {}  # of those who wait
        self._arriving: dict[Body, None] = {}  # in order of arrival

    @property
    def held_bytes(self) -> int:
        return self._room.held

    @property
    def size(self) -> int:
        return self._room.size

    def limit(self, max_bytes: int, *, largest: int = 0, is_shared: bool = False) -> None:
        """Judges what comes from now on by this."""
        self._room.limit(max_bytes, largest=largest, is_shared=is_shared)
        self._go_on()

    def body(self) -> "Body":
        """Of a new request. It must be closed."""
        body = Body(self)
        self._arriving[body] = None
        return body

    async def take(self, tenant: str, size: int, *, yields: bool = False) -> None:
        """Raises `Overloaded` where there is no room in time. `yields`: it is for what has not come yet. For `Body`."""
        waiting = self._room.wait(tenant, size, yields=yields)
        let_in = self._let_in[waiting] = asyncio.Event()
        self._go_on()
        if waiting.is_let_in:
            return
        self._give_up_slow_bodies()
        try:
            async with asyncio.timeout(self._max_wait_s):
                await let_in.wait()
        except TimeoutError:
            if not waiting.is_let_in:
                self._leave(waiting)
                raise self._full() from None
        except asyncio.CancelledError:
            self._leave(waiting)
            raise

    def give_back(self, tenant: str, size: int) -> None:
        """For `Body`."""
        self._room.give_back(tenant, size)
        self._go_on()

    def arrived(self, body: "Body") -> None:
        """For `Body`."""
        self._arriving.pop(body, None)

    def begins(self, body: "Body") -> None:
        """It was let in, and is the youngest of those that arrive. For `Body`."""
        if self._arriving.pop(body, self) is None:
            self._arriving[body] = None

    def _leave(self, waiting: Waiting) -> None:
        self._let_in.pop(waiting, None)
        self._room.leave(waiting)
        self._go_on()

    def _go_on(self) -> None:
        for waiting in self._room.let_in():
            self._let_in.pop(waiting).set()

    def _give_up_slow_bodies(self) -> None:
        """The oldest first, no more of them than it takes to let everybody in who waits."""
        missing = self._room.missing
        now = asyncio.get_running_loop().time()
        for body in list(self._arriving):
            if missing <= 0 or now - body.began < self._patience_s:
                return
            missing -= body.give_up()

    def _full(self) -> Overloaded:
        return Overloaded(
            f"{self.held_bytes} bytes of requests are held here, and at most {self._room.size} may be at a time "
            f"(limits.body_bytes_in_flight); no room came within {self._max_wait_s:g} s",
            retry_after_s=RETRY_AFTER_S,
        )


class Body:
    """What one request has sent."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size, self._held, self._asked_for = 0, 0, 0
        self._given_up, self._tenant = False, ""
        self._reading: asyncio.Timeout | None = None
        self._lapsing: asyncio.TimerHandle | None = None
        self.began = self._came_at = asyncio.get_running_loop().time()

    async def receive(self, receive: Receive) -> Message:
        """The next message, with room for what it holds. Raises `Overloaded`."""
        if self._given_up:
            raise _too_slow()
        try:
            async with asyncio.timeout(None) as self._reading:
                message = await receive()
        except TimeoutError:
            if self._given_up:
                raise _too_slow() from None
            raise
        finally:
            self._reading = None
        if message["type"] == "http.request":
            await self.take(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._budget.arrived(self)
        return message

    def give_up(self) -> int:
        """It has been arriving for too long: who reads it hears so. How many bytes that will free."""
        if self._given_up or not self._held:
            return 0
        self._given_up = True
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())
        return self._held

    def close(self) -> None:
        """Its request is over."""
        if self._lapsing is not None:
            self._lapsing.cancel()
        self._budget.arrived(self)
        held, self._held = self._held, 0
        if held:
            self._budget.give_back(self._tenant, held)

    async def reserve(self, size: int, for_s: float) -> None:
        """Room for a body that will be so large, before any of it is read; who has sent some goes before. Where nothing came for `for_s`,
        what is missing is others' again: who only says that much will come keeps nobody out. Raises `Overloaded`."""
        await self._hold(max(0, size - FREE_BYTES), yields=True)
        loop = asyncio.get_running_loop()
        self.began = self._came_at = loop.time()
        self._budget.begins(self)
        self._lapsing = loop.call_later(for_s, self._lapse, for_s)

    def _lapse(self, for_s: float) -> None:
        loop = asyncio.get_running_loop()
        left_s = self._came_at + for_s - loop.time()
        if left_s > 0:
            self._lapsing = loop.call_later(left_s, self._lapse, for_s)
            return
        missing = self._held - max(0, self._size - FREE_BYTES)
        if missing > 0:
            self._held -= missing
            self._budget.give_back(self._tenant, missing)

    async def take(self, size: int) -> None:
        """So many more bytes are held for its request, which may ask for several at once. Raises `Overloaded`."""
        self._size += size
        self._came_at = asyncio.get_running_loop().time()
        await self._hold(max(0, self._size - FREE_BYTES))

    async def _hold(self, size: int, *, yields: bool = False) -> None:
        """At least so much, all in all."""
        more = size - self._held - self._asked_for
        if more <= 0:
            return
        self._asked_for += more
        if not self._held:
            self._tenant = TENANT.get()  # known by then: who has no key is turned away before its body is read
        try:
            await self._budget.take(self._tenant, more, yields=yields)
            self._held += more
        finally:
            self._asked_for -= more


_BODY: ContextVar[Body | None] = ContextVar("body", default=None)


async def count_fetched(size: int) -> None:
    """Bytes that were fetched for the request at hand count as if it had sent them. Raises `Overloaded`."""
    body = _BODY.get()
    if body is not None:
        await body.take(size)


def _too_slow() -> Overloaded:
    return Overloaded(
        f"the body took longer than {PATIENCE_S:g} s to arrive while others waited for its room (limits.body_bytes_in_flight)",
        retry_after_s=RETRY_AFTER_S,
    )


class BoundedBodies:
    """ASGI middleware: counts every body."""

    def __init__(self, app: ASGIApp, budget: BodyBudget) -> None:
        self._app, self._budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = self._budget.body()
        mark = _BODY.set(body)

        async def counted() -> Message:
            return await body.receive(receive)

        try:
            await self._app(scope, counted, send)
        finally:
            _BODY.reset(mark)
            body.close()
