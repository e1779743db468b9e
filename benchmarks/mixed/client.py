"""Makes one request and notes what its client sees. A request that fails is a note, not an exception. Knows the routes' events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx

from benchmarks.loads.http_client import DATA, DONE
from benchmarks.mixed.asked import Asked, again_after_s, retry_after_s
from benchmarks.mixed.requests import Request


class Refused(Exception):
    """No success. `status` 0: no answer, or one that broke off."""

    def __init__(self, status: int, headers: Mapping[str, str], message: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


def begin(request: Request) -> Asked:
    return Asked(request, time.monotonic())


async def ask(client: httpx.AsyncClient, asked: Asked, *, again: bool = True) -> Asked:
    """Fills in what comes of it. `again`: a request that fails before anything was told is made up to three times, as OpenAI's SDK does."""
    while True:
        try:
            await _once(client, asked)
            asked.status, asked.error = 200, ""
            break
        except Refused as refused:
            asked.status, asked.error = refused.status, f"{refused.status}: {refused}"[:300]
            asked.retry_after_s = retry_after_s(refused.headers)
            wait_s = again_after_s(refused.status, refused.headers, asked.tries)
            if not again or asked.told or asked.num_heard or wait_s is None:
                break
            await asyncio.sleep(wait_s)
            asked.tries += 1
    asked.ended_at = time.monotonic()
    return asked


async def _once(client: httpx.AsyncClient, asked: Asked) -> None:
    """Raises `Refused`."""
    try:
        async with client.stream("POST", asked.request.path, json=asked.request.body) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            if not response.is_success:
                raise Refused(response.status_code, headers, (await response.aread()).decode(errors="replace"))
            if asked.request.is_streamed:
                await _read(response, asked)
            else:
                answer = json.loads(await response.aread())
                asked.heard.append(time.monotonic())
                _note(asked, answer.get("triptych"))
    except (httpx.HTTPError, OSError) as error:
        raise Refused(0, {}, f"{type(error).__name__}: {error}") from error


async def _read(response: httpx.Response, asked: Asked) -> None:
    is_through = False
    async for line in response.aiter_lines():
        if not line.startswith(DATA):
            continue
        asked.heard.append(time.monotonic())
        if line == DATA + DONE:
            is_through = True
            continue
        event: dict[str, Any] = json.loads(line.removeprefix(DATA))
        if "error" in event:
            raise Refused(200, {}, str(event["error"]))
        asked.told += told_by(event)
        is_through = is_through or str(event.get("type", "")).endswith(".completed")
        _note(asked, _receipt(event))
    if not is_through:
        raise Refused(0, {}, "the stream broke off")


def told_by(event: Mapping[str, Any]) -> str:
    """The text of a chat's chunk, the encoded image of a painting's last event, nothing of any other."""
    if str(event.get("type", "")).endswith(".completed"):
        return str(event.get("b64_json", ""))
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))


def _receipt(event: Mapping[str, Any]) -> Any:
    own = event.get("triptych")
    return own.get("receipt", own) if isinstance(own, dict) else None


def _note(asked: Asked, receipt: Any) -> None:
    visits = receipt.get("stages", ()) if isinstance(receipt, dict) else ()
    asked.lost += [visit["stage"] for visit in visits if visit.get("ended_early")]
