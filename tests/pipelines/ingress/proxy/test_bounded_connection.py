"""What a connection may send and how long it may take before its request is one, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from pipelines.ingress.proxy.bounded_connection import BoundedConnection
from pipelines.ingress.proxy.proxy_headers import middlewares
from tests.pipelines.ingress.surface import listening
from tests.stages.fakes import PATIENCE_S

LONG = BoundedConnection.max_head_bytes + 1


class Hasty(BoundedConnection):
    head_within_s = 0.1
    read_on_within_s = 0.1


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """How many bytes the body has."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(str(len(body)))(scope, receive, send)


class Endless:
    """An answer without end."""

    def __init__(self) -> None:
        self.is_gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # uvicorn does without what it asks first
        sending = asyncio.ensure_future(self._send(send))
        while (await receive())["type"] != "http.disconnect":
            pass
        self.is_gone.set()
        await sending

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not self.is_gone.is_set():
            await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})
            await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    protocol: type[BoundedConnection] = BoundedConnection, app: ASGIApp = echo
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with listening(uvicorn.Config(app, log_level="critical", http=protocol, timeout_graceful_shutdown=1)) as address:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        yield reader, writer
        writer.close()


async def answer_to(*pieces: bytes) -> bytes:
    """All that is answered, until the server closes the connection. Nothing where it does so with bytes on their way to it, which may lose
    what it answered."""
    async with connected() as (reader, writer):
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


async def test_an_ordinary_request_is_answered() -> None:
    answer = await answer_to(HEAD + b"content-length: 3\r\n\r\nabc")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n3")


async def test_headers_within_the_bound_and_bodies_of_any_size_pass() -> None:
    filler = b"x-filler: " + b"a" * (LONG - 1000) + b"\r\n"
    assert (await answer_to(HEAD + filler + b"content-length: 0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    body = b"b" * 2_000_000
    assert (await answer_to(HEAD + b"content-length: 2000000\r\n\r\n", body)).endswith(b"2000000")
    chunks = b"1\r\na\r\n" * 100_000
    assert (await answer_to(CHUNKED, chunks, b"0\r\n\r\n")).endswith(b"100000")


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"x: " + b"a" * LONG + b"\r\n\r\n",
        HEAD + b"x: a\r\n" * (LONG // 4) + b"\r\n",
        HEAD + b"a" * LONG + b": x\r\n\r\n",
        b"GET /" + b"a" * LONG + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["a long header", "many headers", "a long name", "a long address"],
)
async def test_a_head_over_the_bound_is_refused(head: bytes) -> None:
    assert (await answer_to(head))[:13] in (b"HTTP/1.1 431 ", b"")


@pytest.mark.parametrize(
    "endless",
    [
        HEAD + b"x: " + b"a" * (8 * LONG),  # more than one read takes
        CHUNKED + b"0\r\nx: " + b"a" * (8 * LONG),
        CHUNKED + b"0\r\n" + b"x: a\r\n" * LONG,
        CHUNKED + b"1;" + b"a" * (8 * LONG),
    ],
    ids=["a header", "a trailer", "trailers", "a chunk's extension"],
)
async def test_what_never_ends_is_cut_off_though_the_parser_holds_it_back(endless: bytes) -> None:
    assert (await answer_to(endless))[:13] in (b"HTTP/1.1 431 ", b"")


async def test_a_head_that_is_too_slow_is_told_so_and_a_silent_connection_closed() -> None:
    async with connected(Hasty) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost:")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    async with connected(Hasty) as (reader, _):
        assert await reader.read() == b""


async def test_the_second_head_of_a_connection_is_bounded_too() -> None:
    async with connected(Hasty) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n0")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nhost:")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_may_take_longer_than_a_head() -> None:
    async with connected(Hasty) as (reader, writer):
        writer.write(HEAD + b"content-length: 1\r\n\r\n")
        other, silent = await asyncio.open_connection(*writer.get_extra_info("peername"))
        assert await other.read() == b""  # it is closed after being silent for as long as a head may take
        silent.close()
        writer.write(b"a")
        assert (await reader.read()).endswith(b"1")


async def test_a_client_that_never_reads_its_answer_is_cut_off_and_the_app_hears_of_it() -> None:
    app = Endless()
    async with connected(Hasty, app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(app.is_gone.wait(), PATIENCE_S)
        answer = b""
        with suppress(ConnectionError):
            answer = await reader.read()
        assert not answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_reads_is_sent_all_of_a_large_answer_and_no_clock_is_left_running() -> None:
    paused, kept = list[BoundedConnection](), 10_000_000

    class Watched(BoundedConnection):
        def pause_writing(self) -> None:
            super().pause_writing()
            paused.append(self)

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(bytes(kept))(scope, receive, send)

    async with connected(Watched, large) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(kept)) == kept
        assert paused
        assert {connection._unread_timer for connection in paused} == {None}


def test_serves_proxy_uses_it_once_it_has_called_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])  # put back afterwards
    middlewares()
    config = uvicorn.Config(echo)
    config.load()
    assert config.http_protocol_class is BoundedConnection
