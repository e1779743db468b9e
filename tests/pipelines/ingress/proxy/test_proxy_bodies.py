"""Serve's proxy reads a body as fast as it comes: what it holds of all of them is bounded all the same."""

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.ingress.body.body_budget import FREE_BYTES, BodyBudget
from pipelines.ingress.proxy import proxy_bodies
from pipelines.ingress.proxy.proxy_bodies import PARTS, BoundedProxy
from pipelines.settings.environment import MAX_BYTES_VARIABLE, PROXY_BODY_BYTES, proxy_body_bytes
from stages.contract.errors import ConfigurationError
from tests.stages.fakes import PATIENCE_S

LARGE = 1_000_000
SCOPE: Scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}


class Proxy:
    """Reads all that comes before it answers, as Serve's does; answers once it may, and says so to one who has left, too."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.num_bytes, self.num_read = 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            self.num_bytes += len(message.get("body", b""))
            if not message["more_body"]:
                break
        self.num_read += 1
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})


async def sent(app: BoundedProxy, size: int, *, declared: int | None = None) -> list[Message]:
    """What a client hears that sends so many bytes, in pieces. `declared`: what it said before."""
    length = [] if declared is None else [(b"content-length", str(declared).encode())]
    left, heard = size, list[Message]()

    async def receive() -> Message:
        nonlocal left
        piece = min(left, FREE_BYTES)
        left -= piece
        return {"type": "http.request", "body": bytes(piece), "more_body": left > 0}

    async def send(message: Message) -> None:
        heard.append(message)

    await app({**SCOPE, "headers": length}, receive, send)
    return heard


async def test_who_finds_no_room_is_told_in_our_shape_and_the_proxy_that_it_has_left() -> None:
    proxy = Proxy()
    app = BoundedProxy(proxy, BodyBudget(LARGE, max_wait_s=0))
    first = asyncio.create_task(sent(app, FREE_BYTES + LARGE))
    while proxy.num_read < 1:  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    second = asyncio.create_task(sent(app, 100 * FREE_BYTES))
    while proxy.num_read < 2:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert proxy.num_bytes <= 2 * FREE_BYTES + LARGE

    proxy.may_answer.set()
    start, body = await asyncio.wait_for(second, PATIENCE_S)
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"1"
    error = json.loads(body["body"])["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "overloaded", None)
    assert MAX_BYTES_VARIABLE in error["message"]
    start, body = await asyncio.wait_for(first, PATIENCE_S)
    assert (start["status"], body["body"]) == (200, b"answer")

    start, _ = await sent(app, FREE_BYTES + LARGE)  # there is room again
    assert start["status"] == 200


async def holding(app: BoundedProxy, proxy: Proxy, size: int) -> "asyncio.Task[list[Message]]":
    """One that has sent so much, and is not answered yet."""
    task, before = asyncio.create_task(sent(app, size)), proxy.num_read
    while proxy.num_read == before and not task.done():  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_what_says_that_it_is_large_asks_no_replica_before_there_is_room() -> None:
    proxy, size = Proxy(), 4 * FREE_BYTES
    app = BoundedProxy(proxy, BodyBudget(PARTS * size, max_wait_s=0))
    first = await holding(app, proxy, FREE_BYTES + PARTS * size)
    start, _ = await asyncio.wait_for(sent(app, size, declared=size), PATIENCE_S)
    assert start["status"] == 429
    assert proxy.num_bytes == FREE_BYTES + PARTS * size  # of the first
    proxy.may_answer.set()
    start, _ = await asyncio.wait_for(first, PATIENCE_S)
    assert start["status"] == 200
    start, _ = await sent(app, size, declared=size)  # there is room again
    assert start["status"] == 200


async def test_room_is_kept_for_a_part_of_what_was_said_and_given_back_once() -> None:
    proxy = Proxy()
    budget = BodyBudget(PARTS * 10 * FREE_BYTES, max_wait_s=0)
    app = BoundedProxy(proxy, budget)
    proxy.may_answer.set()
    for declared in (2 * FREE_BYTES, budget.size, 100 * budget.size):
        start, _ = await asyncio.wait_for(sent(app, 2 * FREE_BYTES, declared=declared), PATIENCE_S)
        assert start["status"] == 200
        assert budget.held_bytes == 0


async def test_who_says_much_and_sends_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_bodies, "RESERVED_S", 0.01)
    budget = BodyBudget(PARTS * FREE_BYTES, max_wait_s=PATIENCE_S)
    asked = asyncio.Event()

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await receive()

    async def nothing() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def no_answer(message: Message) -> None:
        raise AssertionError

    app = BoundedProxy(proxy, budget)
    scope = {**SCOPE, "headers": [(b"content-length", str(3 * FREE_BYTES).encode())]}
    silent = asyncio.create_task(app(scope, nothing, no_answer))
    await asyncio.wait_for(asked.wait(), PATIENCE_S)
    await asyncio.wait_for(budget.body().reserve(budget.size + FREE_BYTES, 100.0), PATIENCE_S)
    assert budget.held_bytes == budget.size
    silent.cancel()
    await asyncio.gather(silent, return_exceptions=True)
    assert budget.held_bytes == budget.size  # nothing is given back twice


async def test_who_has_sent_some_goes_before_who_only_announces() -> None:
    budget = BodyBudget(LARGE, max_wait_s=PATIENCE_S)
    full, under_way = budget.body(), budget.body()
    await full.take(FREE_BYTES + LARGE - 1000)
    await under_way.take(FREE_BYTES + 1000)
    announced = asyncio.create_task(budget.body().reserve(FREE_BYTES + LARGE, 100.0))
    await asyncio.sleep(0)
    more = asyncio.create_task(under_way.take(5000))
    await asyncio.sleep(0)
    assert not more.done()
    full.close()
    await asyncio.wait_for(more, PATIENCE_S)
    assert not announced.done()
    under_way.close()
    await asyncio.wait_for(announced, PATIENCE_S)


async def test_room_is_kept_for_as_long_as_something_comes() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0)
    body, loop = budget.body(), asyncio.get_running_loop()
    await body.reserve(FREE_BYTES + 100_000, 0.2)
    until = loop.time() + 0.5
    while loop.time() < until:
        await body.take(1)
        await asyncio.sleep(0.001)
        assert budget.held_bytes == 100_000
    body.close()


async def test_what_comes_late_is_counted_as_it_comes() -> None:
    budget = BodyBudget(LARGE, max_wait_s=0)
    body = budget.body()
    await body.reserve(FREE_BYTES + 100_000, 0.0)
    await body.take(FREE_BYTES + 10_000)
    while budget.held_bytes > 10_000:  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    await body.take(50_000)
    assert budget.held_bytes == 60_000
    body.close()
    assert budget.held_bytes == 0


@pytest.mark.parametrize("declared", ["", "-1", "1e3", "٣", "9" * 400])
async def test_what_is_no_length_is_for_a_replica_to_refuse(declared: str) -> None:
    asked = list[Scope]()

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)

    async def nothing() -> Message:
        raise AssertionError

    async def no_answer(message: Message) -> None:
        raise AssertionError

    app = BoundedProxy(proxy, BodyBudget(LARGE, max_wait_s=0))
    await app({**SCOPE, "headers": [(b"content-length", declared.encode())]}, nothing, no_answer)
    assert len(asked) == 1


async def test_text_is_answered_whatever_others_send() -> None:
    proxy = Proxy()
    app = BoundedProxy(proxy, BodyBudget(1, max_wait_s=0))
    proxy.may_answer.set()
    for _ in range(10):
        start, _ = await sent(app, FREE_BYTES)
        assert start["status"] == 200


def test_the_bound_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAX_BYTES_VARIABLE, raising=False)
    assert proxy_body_bytes() == PROXY_BODY_BYTES
    monkeypatch.setenv(MAX_BYTES_VARIABLE, " 4096\n")
    assert proxy_body_bytes() == 4096
    for wrong in ("0", "-1", "much", "1e9"):
        monkeypatch.setenv(MAX_BYTES_VARIABLE, wrong)
        with pytest.raises(ConfigurationError, match=MAX_BYTES_VARIABLE):
            proxy_body_bytes()
