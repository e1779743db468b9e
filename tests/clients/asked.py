"""What the clients' tests ask, and whom. Knows no client: an address, the models' names, a picture, a form that an answer must have."""

from __future__ import annotations

import base64
import io
import os
import struct
import zlib
from typing import Literal

from pydantic import BaseModel, Field

ADDRESS = "TRIPTYCH_CLIENTS_ASK"
"""The environment variable that holds the address of the server, without a path."""

SEE, PAINT, CLIP = "triptych-see", "triptych-paint", "triptych-clip"
KEY = "none"  # clients insist on one; a server without keys looks at none
SHORT = 12  # tokens of an answer of which only the form is looked at


def base_url() -> str:
    return os.environ[ADDRESS].rstrip("/") + "/v1"


class Shape(BaseModel):
    """A shape in a picture. Bounded, so that a model of any wit comes to an end."""

    kind: Literal["circle", "square", "triangle"]
    colour: str = Field(max_length=8)
    count: int = Field(ge=0, le=9)


def png(width: int = 64, height: int = 64, grey: int = 200) -> bytes:
    """A plain picture, written by hand: the clients' environment has no library for it."""
    lines = (b"\0" + bytes([grey, 40, 40]) * width) * height
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    out = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    out.seek(0, io.SEEK_END)
    for name, data in chunks:
        out.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return out.getvalue()


def data_url(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def is_png(encoded: str | None) -> bool:
    return base64.b64decode(encoded or "").startswith(b"\x89PNG\r\n")
