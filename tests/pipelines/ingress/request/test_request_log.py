"""A client that takes nothing of its answer, or whose connection breaks, ends its request and is no failure."""

import asyncio
import logging

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.context import RequestContext
from pipelines.ingress.request.metrics import RequestMetrics
from pipelines.ingress.request.request_log import RequestLog
from pipelines.ingress.request.sse import EventStream, opened
from pipelines.ingress.request.whole_answer import PIECE_BYTES, WholeAnswer
from pipelines.ingress.tenants.meter import Meter
from tests.pipelines.ingress.request.test_sse import Numbers, Plain
from tests.stages.fakes import PATIENCE_S

SCOPE: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}


class Client:
    """Takes `takes` messages, and of the next nothing: it waits for ever, or breaks the connection."""

    def __init__(self, takes: int, *, breaks: bool = False) -> None:
        self.taken = list[Message]()
        self._takes, self._breaks = takes, breaks

    async def receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        if len(self.taken) < self._takes:
            self.taken.append(message)
        elif self._breaks:
            raise ConnectionResetError
        else:
            await asyncio.Event().wait()


async def whole(scope: Scope, receive: Receive, send: Send) -> None:
    await WholeAnswer([bytes(4 * PIECE_BYTES)])(scope, receive, send)


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError


async def ask(app: ASGIApp, client: Client) -> None:
    log = RequestLog(app, RequestMetrics(), Meter(), send_within_s=0.01)
    await asyncio.wait_for(log({**SCOPE, "state": {}}, client.receive, client.send), PATIENCE_S)


@pytest.mark.parametrize("breaks", [True, False])
@pytest.mark.parametrize("takes", [0, 1, 3])
async def test_a_client_that_takes_no_more_of_a_whole_answer_ends_it(
    takes: int, breaks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(takes, breaks=breaks)
    await ask(whole, client)
    assert len(client.taken) == takes
    assert caplog.text == ""


@pytest.mark.parametrize("breaks", [True, False])
async def test_a_client_that_takes_no_more_of_a_stream_ends_what_makes_it(
    breaks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = Numbers(1000)

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        events = await opened(numbers.events())
        await EventStream(Request(scope), RequestContext(id="mine"), events, Plain(), heartbeat_s=60)(scope, receive, send)

    await ask(stream, Client(3, breaks=breaks))
    assert (numbers.asked, numbers.closed) == (3, True)
    assert caplog.text == ""


async def test_a_client_that_takes_no_heartbeat_ends_what_is_waited_for() -> None:
    numbers = Numbers(2, pause_at=1)

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        events = await opened(numbers.events())
        await EventStream(Request(scope), RequestContext(id="mine"), events, Plain(), heartbeat_s=0.01)(scope, receive, send)

    await ask(stream, Client(2))
    assert (numbers.asked, numbers.closed) == (1, True)


async def test_a_failure_that_nobody_is_there_to_hear_of_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    await ask(failing, Client(0))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "ZeroDivisionError" in caplog.text
