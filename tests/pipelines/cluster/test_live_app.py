"""An app that is replaced while it serves."""

import asyncio

import pytest

from pipelines.cluster.live_app import LiveApp, Message, Receive, Scope, Send


class Named:
    """Answers with its name, once it may."""

    def __init__(self, name: str, *, waits: bool = False) -> None:
        self.routes = [name]
        self._name = name
        self.may_answer = asyncio.Event()
        self.asked = asyncio.Event()
        if not waits:
            self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.may_answer.wait()
        await send({"type": "http.response.body", "body": self._name})


async def nothing() -> Message:
    return {"type": "http.request"}


async def ask(app: LiveApp) -> object:
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    await app({"type": "http"}, nothing, send)
    return said[0]["body"]


async def test_requests_under_way_end_in_the_app_that_they_came_to() -> None:
    app, old = LiveApp(), Named("old", waits=True)
    app.replace(old, "1")
    under_way = asyncio.create_task(ask(app))
    await old.asked.wait()
    app.replace(Named("new"), "2")
    assert await ask(app) == "new"
    assert app.in_use() == ("1", "2")
    old.may_answer.set()
    assert await under_way == "old"
    assert app.in_use() == ("2",)


async def test_a_version_that_nobody_uses_is_forgotten_at_once() -> None:
    app = LiveApp()
    assert not app.serves
    app.replace(Named("old"), "1")
    app.replace(Named("new"), "2")
    assert app.serves
    assert app.in_use() == ("2",)
    assert app.routes == ["new"]


async def test_a_request_that_fails_or_is_cancelled_holds_no_version() -> None:
    app, old = LiveApp(), Named("old", waits=True)
    app.replace(old, "1")
    under_way = asyncio.create_task(ask(app))
    await old.asked.wait()
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await under_way
    app.replace(Named("new"), "2")
    assert app.in_use() == ("2",)


async def test_servers_lifespan_is_answered() -> None:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    said = []

    async def receive() -> Message:
        return dict(next(events))

    async def send(message: Message) -> None:
        said.append(message["type"])

    await LiveApp()({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
