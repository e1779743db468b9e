"""What still computes once a request has failed, is late, or has lost its client: what is on a device already, and nothing after it.

From HTTP down to the engines, over small stages whose devices wait for the test.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT
from tests.pipelines.ingress.staged import BAD_SEED, BAD_TEXT, Staged
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, server_for
from tests.stages.host.hosting import once

BATCH = 16  # what may be on a device at once


@pytest.fixture(params=["here", "served"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Staged]:
    service = Staged(is_served=request.param == "served")
    yield service
    await service.close()


def many(kind: str, *, stream: bool) -> tuple[str, str, JsonObject, Callable[[Staged], Any]]:
    """(path, stage, body, the stage itself): a request of many pieces, the last of them bad. Seeds count up from 2 to BAD_SEED."""
    if kind == "embed":
        texts = [f"text {number}" for number in range(200)]
        return "/v1/embeddings", f"{EMBED}.embedder", {"model": EMBED, "input": [*texts, BAD_TEXT]}, lambda it: it.embedder
    if kind == "complete":
        body = {"model": CHAT, "prompt": ["a"] * 4, "n": 4, "seed": BAD_SEED - 3, "max_tokens": 9, "stream": stream}
        return "/v1/completions", f"{CHAT}.llm", body, lambda it: it.llm
    if kind == "chat":
        body = chat_body("hello", n=4, seed=BAD_SEED - 3, stream=stream)
        return "/v1/chat/completions", f"{CHAT}.llm", body, lambda it: it.llm
    body = {"model": PAINT, "prompt": "a boat", "n": 4, "seed": BAD_SEED - 3, "size": "64x64", "stream": stream}
    return "/v1/images/generations", f"{PAINT}.denoiser", body, lambda it: it.denoiser


KINDS = [
    *(("embed", False), ("chat", False), ("chat", True), ("paint", False), ("paint", True)),
    *(("complete", False), ("complete", True)),
]


@pytest.mark.parametrize(("kind", "stream"), KINDS)
@pytest.mark.parametrize("how", ["refused", "late", "gone"])
async def test_what_was_on_a_device_is_all_that_still_computes(service: Staged, kind: str, stream: bool, how: str) -> None:
    path, stage, body, found = many(kind, stream=stream)
    found(service).gate.close()
    if how == "gone":
        async with server_for(service) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=None) as client:
            asking = asyncio.create_task(client.post(path, json=body))
            await asyncio.to_thread(found(service).gate.wait_for, 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await _nothing_but_what_is_on_the_device(service, stage)
        return
    headers = {"x-request-timeout-seconds": "1"} if how == "late" else {}
    async with client_for(service) as client:
        asking = asyncio.create_task(client.post(path, json=body, headers=headers))
        if how == "refused":
            await asyncio.to_thread(found(service).gate.wait_for, 1)
            found(service).refusing.open()
        answer = await asking
    assert answer.status_code == {"refused": 400, "late": 504}[how], answer.text
    await _nothing_but_what_is_on_the_device(service, stage)


async def _nothing_but_what_is_on_the_device(service: Staged, stage: str) -> None:
    await once(lambda: all(load.queued == 0 for load in service.host.load().values()))
    before = service.counted(stage, "batches_total")
    for held in (service.embedder, service.llm, service.denoiser):
        held.gate.open()
        held.refusing.open()
    await once(lambda: all(load.running == 0 for load in service.host.load().values()))
    await service.host.settled()
    assert service.counted(stage, "batches_total") <= before + 1
    assert service.counted(stage, "batch_items_total") <= BATCH
