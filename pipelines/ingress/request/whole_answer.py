"""A body that is known before it is sent, however large: made and sent in pieces, none of which keeps the event loop, or another
thread that wants the interpreter's lock, for long. Knows nothing of what it says.
"""

import asyncio
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastapi import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 256 * 1024
_BASE64_BYTES = PIECE_BYTES // 4 * 3  # what becomes one piece


class WholeAnswer(Response):
    """A response with the pieces one after another as its body."""

    def __init__(
        self, pieces: Sequence[bytes], *, media_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> None:
        length = str(sum(map(len, pieces)))
        super().__init__(headers={**(headers or {}), "content-length": length}, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in cut(self._pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)  # a send need not wait for anything
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def cut(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about `PIECE_BYTES` at most: large ones are cut, small ones put together."""
    held: list[bytes] = []
    num_held = 0
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            part = piece if len(piece) <= PIECE_BYTES else piece[start : start + PIECE_BYTES]
            if held and num_held + len(part) > PIECE_BYTES:
                yield b"".join(held)
                held, num_held = [], 0
            held.append(part)
            num_held += len(part)
    if held:
        yield b"".join(held)


def listed(entries: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    """Members of a JSON array, each in pieces, with commas between them."""
    for index, entry in enumerate(entries):
        if index:
            yield b","
        yield from entry


def base64_pieces(data: bytes) -> Iterator[bytes]:
    """The base64 of the data."""
    view = memoryview(data)
    for start in range(0, len(data), _BASE64_BYTES):
        yield binascii.b2a_base64(view[start : start + _BASE64_BYTES], newline=False)
