"""Whether what a client was told under a fault is what it is told where nothing disturbs it."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.mixed.client import ask, begin
from benchmarks.mixed.requests import Kind, Request

LEVELS = 2
"""Of 255, by which a value of the same image may differ: batches of other sizes add up in another order."""


async def asked_alone(client: httpx.AsyncClient, request: Request) -> str:
    """What it is told where nothing disturbs it. Raises `RuntimeError` where it has no answer."""
    asked = await ask(client, begin(request))
    if asked.has_failed:
        raise RuntimeError(f"{request.kind} {request.number}, asked again alone: {asked.error}")
    return asked.told


def is_same(kind: Kind, told: str, alone: str) -> bool:
    """Texts to the letter, images (base64) but for `LEVELS`."""
    if kind is not Kind.PAINTING:
        return told == alone
    one, other = _pixels(told), _pixels(alone)
    return one.shape == other.shape and int(np.abs(one - other).max()) <= LEVELS


def _pixels(data: str) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(np.int64)
