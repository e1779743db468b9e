"""A small body that comes along with its request: read before a replica is asked, found by the app, and never told twice."""

import asyncio
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.body.early_body import EARLY_BODY, SMALL_BYTES, SendsBodiesAlong, TakesBodiesAlong
from pipelines.ingress.proxy import proxy_headers
from pipelines.ingress.proxy.proxy_bodies import BoundedProxy
from pipelines.ingress.proxy.proxy_errors import OwnErrors

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
    crossed: Scope = pickle.loads(pickle.dumps(proxy.scope))  # noqa: S301
    asked = Client(later=proxy.told[:-1])  # the proxy says nothing yet
    asking = asyncio.create_task(ask(TakesBodiesAlong(app), crossed, asked))
    while not app.told:  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    assert app.told == [part(b"abcd")]
    asked.may_go_on.set()
    await asking
    assert app.told == [part(b"abcd"), DISCONNECT]  # what the proxy sends of the body as well isn't told again
    assert EARLY_BODY not in app.scope


async def test_an_app_that_does_not_look_for_it_has_it_from_the_proxy() -> None:
    proxy = Seen()
    await ask(SendsBodiesAlong(proxy), scope(4), Client(part(b"ab", more=True), part(b"cd")))
    assert proxy.told == [part(b"ab", more=True), part(b"cd"), DISCONNECT]


def test_in_serves_proxy_it_is_inside_of_what_bounds_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.http_util import _apply_middlewares

    for name in ("bound_connections", "return_large_blocks"):  # of the whole process
        monkeypatch.setattr(proxy_headers, name, lambda: None)
    found: list[type] = []
    app: Any = _apply_middlewares(Seen(), proxy_headers.middlewares())
    while not isinstance(app, Seen):
        found.append(type(app))
        app = app._app if hasattr(app, "_app") else app.app
    assert found.index(BoundedProxy) < found.index(OwnErrors) < found.index(SendsBodiesAlong)


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
