"""An app that is replaced while it serves."""

import asyncio
import threading

import pytest

from pipelines.cluster.live_app import Built, LiveApp, Message, Receive, Scope, Send, Succession


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


class Builder:
    """Builds apps that answer with their settings' name, each when it may; fails at "bad", with no error of Triptych's."""

    def __init__(self) -> None:
        self.may_build = threading.Event()
        self.may_build.set()
        self.told: list[str | None] = []
        self.built: list[str] = []
        self.live = LiveApp()
        self.succession = Succession[str](self.live, self.build, self.changed)

    def build(self, settings: str) -> Built[str]:
        assert self.may_build.wait(10)
        if settings == "bad":
            raise KeyError("no such model")
        self.built.append(settings)
        return Built(settings, Named(settings), f"v-{settings}")

    def changed(self, built: Built[str] | None) -> None:
        self.told.append(built.settings if built is not None else None)


async def test_the_first_settings_are_waited_for() -> None:
    builder = Builder()
    await builder.succession.take("a")
    assert (await ask(builder.live), builder.live.in_use(), builder.told) == ("a", ("v-a",), ["a"])


async def test_the_first_settings_fail_where_they_cannot_be_served_by() -> None:
    builder = Builder()
    with pytest.raises(KeyError):
        await builder.succession.take("bad")
    assert not builder.live.serves


async def test_later_settings_are_built_while_the_old_ones_serve() -> None:
    builder = Builder()
    await builder.succession.take("a")
    builder.may_build.clear()
    await builder.succession.take("b")  # returns at once: Serve sends no requests meanwhile
    assert await ask(builder.live) == "a"
    builder.may_build.set()
    await builder.succession.settled()
    assert (await ask(builder.live), builder.told) == ("b", ["a", "b"])


async def test_later_settings_that_fail_for_whatever_reason_are_refused_until_others_come() -> None:
    builder = Builder()
    await builder.succession.take("a")
    await builder.succession.take("bad")
    await builder.succession.settled()
    assert builder.succession.refused == ("bad", "'no such model'")
    assert (await ask(builder.live), builder.told) == ("a", ["a", None])
    await builder.succession.take("c")
    await builder.succession.settled()
    assert builder.succession.refused is None
    assert await ask(builder.live) == "c"


async def test_of_settings_that_come_while_others_are_built_the_newest_are_served_by_at_last() -> None:
    builder = Builder()
    await builder.succession.take("a")
    builder.may_build.clear()
    for settings in ("b", "c", "d"):
        await builder.succession.take(settings)
    builder.may_build.set()
    await builder.succession.settled()
    assert await ask(builder.live) == "d"
    assert "c" not in builder.built


async def test_servers_lifespan_is_answered() -> None:
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    said = []

    async def receive() -> Message:
        return dict(next(events))

    async def send(message: Message) -> None:
        said.append(message["type"])

    await LiveApp()({"type": "lifespan"}, receive, send)
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
