"""A connection of which little is read before the head of an answer is there, since a server may send any number of answers that only
say that there will be one (102), and header lines without end. Each is work for the event loop. Knows nothing of what it carries.
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

MAX_HEAD_BYTES = 64 * 1024
_READ_BYTES = 4096  # what comes at once keeps the loop


class WatchedNetwork(httpcore.AsyncNetworkBackend):
    """For one request."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()
        self._left: int | None = MAX_HEAD_BYTES

    def head_has_come(self) -> None:
        """From now on anything is read."""
        self._left = None

    async def read(self, stream: httpcore.AsyncNetworkStream, max_bytes: int, timeout: float | None) -> bytes:  # noqa: ASYNC109
        """For `_WatchedStream`. Raises `RemoteProtocolError`."""
        if self._left is None:
            return await stream.read(max_bytes, timeout)
        if self._left <= 0:
            raise httpcore.RemoteProtocolError(f"there is no answer within {MAX_HEAD_BYTES} bytes")
        await asyncio.sleep(0)
        data = await stream.read(min(max_bytes, _READ_BYTES), timeout)
        if self._left is not None:
            self._left -= len(data)
        return data

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _WatchedStream(self, await self._network.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _WatchedStream(httpcore.AsyncNetworkStream):
    def __init__(self, network: WatchedNetwork, stream: httpcore.AsyncNetworkStream) -> None:
        self._network, self._stream = network, stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._network.read(self._stream, max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        return _WatchedStream(self._network, await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
