"""Serve's proxy reads a body as fast as it comes: what it holds of all of them is bounded all the same."""

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.ingress.body.body_budget import FREE_BYTES, BodyBudget
from pipelines.ingress.proxy.proxy_bodies import BoundedProxy
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


async def test_what_says_that_it_is_large_asks_no_replica_before_there_is_room() -> None:
    proxy = Proxy()
    app = BoundedProxy(proxy, BodyBudget(LARGE, max_wait_s=0))
    first = asyncio.create_task(sent(app, FREE_BYTES + LARGE, declared=FREE_BYTES + LARGE))
    while proxy.num_read < 1:  # noqa: ASYNC110 - pytest's timeout ends it
        await asyncio.sleep(0)
    start, _ = await asyncio.wait_for(sent(app, LARGE, declared=LARGE), PATIENCE_S)
    assert start["status"] == 429
    assert proxy.num_bytes == FREE_BYTES + LARGE  # of the first
    proxy.may_answer.set()
    start, _ = await asyncio.wait_for(first, PATIENCE_S)
    assert start["status"] == 200
    start, _ = await sent(app, LARGE, declared=LARGE)  # there is room again
    assert start["status"] == 200


async def test_room_is_kept_for_what_was_said_and_no_more_is_taken_for_it() -> None:
    proxy = Proxy()
    budget = BodyBudget(LARGE, max_wait_s=0)
    app = BoundedProxy(proxy, budget)
    first = asyncio.create_task(sent(app, LARGE, declared=LARGE))
    while proxy.num_read < 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert budget.held_bytes == LARGE - FREE_BYTES
    proxy.may_answer.set()
    await asyncio.wait_for(first, PATIENCE_S)
    assert budget.held_bytes == 0


@pytest.mark.parametrize("declared", ["", "-1", "1e3", "٣", "9" * 400, str(LARGE + 1)])
async def test_what_is_no_length_or_larger_than_all_room_is_for_a_replica_to_refuse(declared: str) -> None:
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
