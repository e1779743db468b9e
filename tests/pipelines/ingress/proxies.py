"""A reverse proxy as people put one before servers: it collects an answer before it passes it on, unless the answer says not to, and gives
up on a server that says nothing for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stages.concurrency.together import stopped

PIECE = 65536


@dataclass(slots=True)
class CuttingProxy:
    """In front of `upstream`. `cuts`: how often it gave up."""

    upstream: str
    silent_s: float
    cuts: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.upstream)
        from_server, to_server = await asyncio.open_connection(parts.hostname, parts.port)
        asking = asyncio.create_task(_pump(reader, to_server))
        try:
            await self._answer(from_server, writer)
        except TimeoutError:
            self.cuts += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            await stopped(asking)
            for end in (to_server, writer):
                end.close()

    async def _answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        head = await asyncio.wait_for(server.readuntil(b"\r\n\r\n"), self.silent_s)
        passes_on = b"x-accel-buffering: no" in head.lower()
        collected = [head]
        while True:
            if passes_on:
                client.write(b"".join(collected))
                await client.drain()
                collected.clear()
            piece = await asyncio.wait_for(server.read(PIECE), self.silent_s)
            if not piece:
                break
            collected.append(piece)
        client.write(b"".join(collected))
        await client.drain()


@asynccontextmanager
async def behind_a_proxy(upstream: str, *, silent_s: float) -> AsyncIterator[tuple[str, CuttingProxy]]:
    """The proxy's address. Clients must close their connections after each answer (`connection: close`)."""
    proxy = CuttingProxy(upstream, silent_s)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy
    finally:
        server.close()
        await server.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE):
        writer.write(piece)
        await writer.drain()
