"""A stream of events over ASGI itself: asks for no event before the last one is taken, closes what makes them however it ends."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from fastapi import Request

from pipelines.context import RequestContext
from pipelines.ingress.request.disconnect import ClientGone
from pipelines.ingress.request.sse import DONE, HEARTBEAT, EventStream, data_frame, opened

WAIT_S = 20


class Numbers:
    """Counts to `count`, but waits for `resumed` before number `pause_at`. `asked` is how far it was asked to count, `closed`
    whether it was closed or has ended."""

    def __init__(self, count: int, *, pause_at: int | None = None, error: Exception | None = None) -> None:
        self.asked, self.closed, self.resumed = 0, False, asyncio.Event()
        self._count, self._pause_at, self._error = count, pause_at, error

    async def events(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                if number == self._pause_at:
                    await self.resumed.wait()
                self.asked += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


class Plain:
    """A `StreamWriter` of numbers."""

    async def frame(self, event: int) -> bytes:
        return data_frame(str(event).encode())

    async def end(self) -> bytes:
        return b"data: end\n\n"


class Client:
    """The other end of ASGI: takes `takes` frames at once, the rest when `hurry` is set. `warm` is set at its third heartbeat;
    `broken`: nobody takes any more."""

    def __init__(self, takes: float = float("inf")) -> None:
        self.said: list[bytes] = []
        self.hurry, self.full, self.left, self.warm = (asyncio.Event() for _ in range(4))
        self.broken, self.ended = False, False
        self._takes = takes

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.broken:
            raise ClientGone
        if message["type"] != "http.response.body":
            return
        assert not self.ended, "said after the end"
        self.ended = not message["more_body"]
        if len(self.said) >= self._takes:
            self.full.set()
            await self.hurry.wait()
        if message["body"]:
            self.said.append(message["body"])
        if self.said.count(HEARTBEAT) == 3:
            self.warm.set()


async def stream(numbers: Numbers, client: Client, *, heartbeat_s: float = 60, left_s: float = 60) -> None:
    scope = {"type": "http", "method": "GET", "headers": [], "path": "/", "state": {"request_id": "mine"}}
    context = RequestContext(id="mine", deadline=time.time() + left_s)
    events = await opened(numbers.events())
    response = EventStream(Request(scope), context, events, Plain(), heartbeat_s=heartbeat_s, done=DONE)
    await asyncio.wait_for(response(scope, client.receive, client.send), WAIT_S)


async def test_events_come_in_order_and_then_the_end() -> None:
    numbers, client = Numbers(3), Client()
    await stream(numbers, client)
    assert client.said == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n", b"data: end\n\n" + DONE]
    assert (client.ended, numbers.closed) == (True, True)


@pytest.mark.parametrize("line_end", ["\x85", "\u2028", "\u2029"])
def test_a_frame_is_one_line_to_clients_that_read_lines_of_text(line_end: str) -> None:
    said = {"text": f"before{line_end}after, \\ 🧿 é"}
    frame = data_frame(json.dumps(said, ensure_ascii=False).encode())
    (line, empty) = httpx.Response(200, content=frame, headers={"content-type": "text/event-stream"}).iter_lines()
    assert (json.loads(line.removeprefix("data: ")), empty) == (said, "")


async def test_events_that_there_are_none_of_are_a_stream_too() -> None:
    client = Client()
    await stream(Numbers(0), client)
    assert client.said == [b"data: end\n\n" + DONE]


async def test_a_client_that_reads_slowly_is_not_read_ahead_for() -> None:
    numbers, client = Numbers(1000), Client(takes=2)
    streaming = asyncio.create_task(stream(numbers, client))
    await asyncio.wait_for(client.full.wait(), WAIT_S)
    assert numbers.asked == 3  # two are with the client, the third is on its way
    client.hurry.set()
    await streaming
    assert numbers.asked == 1000
    assert len(client.said) == 1001


async def test_what_makes_events_is_closed_when_the_client_leaves_while_it_is_waited_for() -> None:
    numbers, client = Numbers(1000), Client(takes=2)
    streaming = asyncio.create_task(stream(numbers, client))
    await asyncio.wait_for(client.full.wait(), WAIT_S)
    client.left.set()
    await streaming
    assert numbers.closed
    assert numbers.asked == 3


async def test_a_connection_that_breaks_under_a_frame_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    numbers, client = Numbers(1000), Client(takes=2)
    streaming = asyncio.create_task(stream(numbers, client))
    await asyncio.wait_for(client.full.wait(), WAIT_S)
    client.broken = True
    client.hurry.set()
    await streaming
    assert numbers.closed
    assert caplog.text == ""


async def test_an_error_of_the_connections_kind_that_is_the_servers_own_is_told_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client()
    await stream(Numbers(1, error=ConnectionError("the stage's replica hung up")), client)
    assert "the stage's replica hung up" in caplog.text
    assert json.loads(client.said[-1].splitlines()[0].removeprefix(b"data: "))["error"]["type"] == "server_error"


async def test_the_line_is_kept_warm_until_the_end_and_not_after_it() -> None:
    numbers, client = Numbers(2, pause_at=1), Client()
    streaming = asyncio.create_task(stream(numbers, client, heartbeat_s=0.001))
    await asyncio.wait_for(client.warm.wait(), WAIT_S)
    numbers.resumed.set()
    await streaming
    assert [frame for frame in client.said if frame != HEARTBEAT][-1] == client.said[-1] == b"data: end\n\n" + DONE


async def test_a_stream_whose_time_is_up_says_so_and_closes_what_makes_its_events() -> None:
    numbers, client = Numbers(2, pause_at=1), Client()
    await stream(numbers, client, left_s=0.05)
    assert numbers.closed
    assert b"deadline_exceeded" in client.said[-1]
    assert client.said[-1].endswith(DONE)
