"""How long a request's head (its first line and its headers) may be, how long it may take to come, and how long an answer may wait for
its client to read on.

uvicorn bounds none of them with its usual parser, httptools: a client could have it hold headers without end, or a connection that says
nothing, or an answer that nobody takes, and with it the request. Serve's proxy has no setting for that, so `proxy_headers.middlewares`,
which runs in the proxy before its server, has uvicorn use this protocol. Bodies are bounded where they
are read (`bodies.py`). Knows no routes.
"""

import asyncio

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
HEAD_WITHIN_S = 30.0
READ_ON_WITHIN_S = 60.0  # what the server holds for it, some hundred kilobytes at most
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\n"


def bound_connections() -> None:
    """Has every uvicorn server that this process starts from now on use `BoundedConnection`."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedConnection.__name__}"


class HeadTooLarge(Exception):
    pass


class BoundedConnection(HttpToolsProtocol):
    """Answers 431 and 408, and closes. What the parser holds back until it is whole (a header, a trailer, a chunk's extension) is counted
    by the read, of which the first may hold other things too: asyncio reads 256 KiB at most."""

    max_head_bytes, head_within_s, read_on_within_s = MAX_HEAD_BYTES, HEAD_WITHIN_S, READ_ON_WITHIN_S
    _in_head = False
    _num_read = 0  # since there was a part of a body, or a head or a message began or was complete
    _num_parsed = 0  # of this message's head, and of its trailers
    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.read_on_within_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if not self._is_answering():
            self._expect_head()
        self._num_read += len(data)
        super().data_received(data)
        if self._num_read > self.max_head_bytes:
            self._refuse(TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._num_read, self._num_parsed = True, 0, 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + len(b": \r\n"))

    def on_headers_complete(self) -> None:
        self._in_head, self._num_read = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_read = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_read = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Also what the parser comes to where `_count` ends it."""
        if self._num_parsed > self.max_head_bytes:
            self._refuse(TOO_LARGE)
        else:
            self._stop_timer()
            super().send_400_response(msg)

    def _count(self, num_bytes: int) -> None:
        self._num_parsed += num_bytes
        if self._num_parsed > self.max_head_bytes:
            raise HeadTooLarge

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_within_s, self._too_slow)

    def _too_slow(self) -> None:
        """A connection that has said nothing at all is closed without a word: browsers open some in advance."""
        self._timer = None
        if self._is_answering():
            self._expect_head()
        else:
            self._refuse(TOO_SLOW if self._in_head else b"")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse(self, status: bytes) -> None:
        """An answer under way is cut off: another one can't stand in the middle of it."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if status and not self._is_answering():
            self.transport.write(status + b"connection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
