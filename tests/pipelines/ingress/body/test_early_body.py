"""A small body that comes along with its request: read before a replica is asked, found by the app, and never told twice."""

import asyncio
import pickle
from collections.abc import Sequence

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.body.early_body import EARLY_BODY, SMALL_BYTES, SendsBodiesAlong, TakesBodiesAlong

DISCONNECT: Message = {"type": "http.disconnect"}


class Seen:
    """An app that reads what it is told, to the client's leave."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.told: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        while not self.told or self.told[-1] != DISCONNECT:
            self.told.append(await receive())

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.told)


class Client:
    """Sends these messages, then waits for `may_go_on`, then sends the rest, and leaves."""

    def __init__(self, *at_once: Message, later: Sequence[Message] = ()) -> None:
        self._left, self._later = [*at_once], [*later, DISCONNECT]
        self.may_go_on = asyncio.Event()
        if not later:
            self.may_go_on.set()

    async def receive(self) -> Message:
        if self._left:
            return self._left.pop(0)
        await self.may_go_on.wait()
        return self._later.pop(0) if self._later else DISCONNECT


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def scope(declared: int | None) -> Scope:
    length = [] if declared is None else [(b"content-length", str(declared).encode())]
    return {"type": "http", "method": "POST", "path": "/", "headers": length}


async def ask(app: ASGIApp, given: Scope, client: Client) -> None:
    async def send(message: Message) -> None: ...

    await app(given, client.receive, send)


async def test_what_has_come_with_its_head_crosses_with_it_and_the_app_reads_it_at_once() -> None:
    proxy, app = Seen(), Seen()
    await ask(SendsBodiesAlong(proxy), scope(4), Client(part(b"ab", more=True), part(b"cd")))
    assert (proxy.body, proxy.told[-1]) == (
        b"",
        DISCONNECT,
    )  # a replica that asks the proxy hears of its end, and of the client's
    crossed: Scope = pickle.loads(pickle.dumps(proxy.scope))  # noqa: S301
    nothing = Client()  # as if the proxy were never asked
    await ask(TakesBodiesAlong(app), crossed, nothing)
    assert (app.body, app.told[-1]) == (b"abcd", DISCONNECT)
    assert EARLY_BODY not in app.scope


@pytest.mark.parametrize("declared", [None, 0, SMALL_BYTES + 1])
async def test_what_is_large_or_of_no_known_length_goes_as_it_comes(declared: int | None) -> None:
    proxy = Seen()
    await ask(SendsBodiesAlong(proxy), scope(declared), Client(part(b"ab", more=True), part(b"cd")))
    assert proxy.body == b"abcd"
    assert EARLY_BODY not in proxy.scope


async def test_who_is_slow_is_not_waited_for_and_nothing_of_it_is_lost() -> None:
    proxy, client = Seen(), Client(part(b"ab", more=True), later=[part(b"cd")])
    asking = asyncio.create_task(ask(SendsBodiesAlong(proxy, within_s=0.01), scope(4), client))
    while not proxy.told:  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    assert proxy.body == b"ab"
    client.may_go_on.set()
    await asking
    assert proxy.body == b"abcd"
    assert EARLY_BODY not in proxy.scope


async def test_who_leaves_in_the_middle_is_told_to_have_left() -> None:
    proxy = Seen()
    await ask(SendsBodiesAlong(proxy), scope(4), Client(part(b"ab", more=True)))
    assert proxy.told == [part(b"ab", more=True), DISCONNECT]
    assert EARLY_BODY not in proxy.scope
