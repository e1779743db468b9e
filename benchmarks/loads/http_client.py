"""The HTTP client of every benchmark: the same for both sides, and quick enough not to be what is measured. Knows no routes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

TIMEOUT_S = 600.0
DATA = "data: "
DONE = "[DONE]"


def http_client(url: str, *, concurrency: int = 1000) -> httpx.AsyncClient:
    """Keeps its connections; takes no proxy from the environment."""
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False)


async def post(client: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> dict[str, Any]:
    """The JSON answer. Raises `RuntimeError` with the body of an answer that is no success."""
    response = await client.post(path, json=body)
    if not response.is_success:
        raise RuntimeError(f"{path}: {response.status_code} {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer


async def events(client: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of each server-sent event, as it comes. Closing the iterator closes the connection. Raises `RuntimeError`."""
    async with client.stream("POST", path, json=body) as response:
        if not response.is_success:
            raise RuntimeError(f"{path}: {response.status_code} {(await response.aread())[:500]!r}")
        async for line in response.aiter_lines():
            if line.startswith(DATA) and line != DATA + DONE:
                event: dict[str, Any] = json.loads(line.removeprefix(DATA))
                if "error" in event:
                    raise RuntimeError(f"{path}: {event['error']}")
                yield event
