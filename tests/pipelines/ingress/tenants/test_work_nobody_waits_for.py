"""Batches and jobs of a tenant with quotas: each line, and each painting, waits for devices' time, and is charged for it."""

import asyncio
import json
from typing import Any

import httpx

from pipelines.ingress.app import Kept, create_app
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService
from tests.pipelines.ingress.kept.workers import Clock
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_of
from tests.pipelines.ingress.tenants.clocked import DAY, clocked, key, several

ADA = key("ada")


async def over(client: httpx.AsyncClient, path: str) -> JsonObject:
    while True:
        told: JsonObject = (await client.get(path, headers=ADA)).json()
        if told["status"] in ("completed", "failed", "cancelled", "expired"):
            return told
        await asyncio.sleep(0.005)


async def batch(client: httpx.AsyncClient, num_lines: int) -> str:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": chat_body()}
        for number in range(num_lines)
    ]
    content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    given = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}}
    file = (await client.post("/v1/files", headers=ADA, **given)).json()  # type: ignore[arg-type]
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    told = await client.post("/v1/batches", json=body, headers=ADA)
    assert told.status_code == 200, told.text
    return f"/v1/batches/{told.json()['id']}"


async def today(client: httpx.AsyncClient) -> JsonObject:
    [day] = (await client.get("/v1/usage", headers=ADA)).json()["data"]
    assert day["date"] == DAY
    return dict(day)


async def test_lines_of_a_batch_take_nobodys_turn_and_are_charged() -> None:
    settings = several({"ada": {"requests_per_minute": 2, "concurrent_requests": 1}})
    kept = clocked(settings, Clock())
    async with client_of(create_app(FakeService(), settings, kept)) as client:
        told = await over(client, await batch(client, 5))
        assert told["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
        day = await today(client)
    assert (day["requests"], day["refused"]) == (7, 0)  # a file, a batch, five lines
    assert day["stages"][f"{CHAT}.llm"] == 0.05
    await close(kept)


async def test_lines_of_a_batch_wait_while_the_tenant_has_overdrawn_and_then_go_on() -> None:
    settings, clock = several({"ada": {"device_seconds_per_minute": 0.02}}), Clock()
    kept, service = clocked(settings, clock), FakeService()
    async with client_of(create_app(service, settings, kept)) as client:
        kept.meter.quotas.begin("ada", clock())
        kept.meter.quotas.end("ada", clock(), device_s=0.0200001)
        path = await batch_without_asking(client, kept, settings)
        while kept.batches._tending is None or not kept.batches._running:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for _ in range(20):
            await asyncio.sleep(0)
        assert service.jobs == []
        clock.now += 60
        told = await over(client, path)
        assert told["request_counts"]["completed"] == 1
        assert (await today(client))["refused"] == 0  # nobody was told of it
    await close(kept)


async def batch_without_asking(client: httpx.AsyncClient, kept: Kept, settings: Any) -> str:
    """Of a tenant that may not ask now: submitted before it had overdrawn."""
    limits, kept.meter.quotas.limits = kept.meter.quotas.limits, {}
    path = await batch(client, 1)
    kept.meter.quotas.limits = limits
    return path


async def test_a_job_is_a_request_when_it_is_submitted_and_charged_when_it_is_done() -> None:
    settings = several({"ada": {"device_seconds_per_minute": 0.001}})
    clock = Clock()
    kept, service = clocked(settings, clock), FakeService()
    async with client_of(create_app(service, settings, kept)) as client:
        told = await client.post("/v1/images/jobs", json={"model": PAINT, "prompt": "a boat"}, headers=ADA)
        assert told.status_code == 202
        done = await over(client, f"/v1/images/jobs/{told.json()['id']}")
        assert done["status"] == "completed"
        day = await today(client)
        assert day["requests"] == 1
        assert day["device_seconds"] > 0.001
        refused = await client.post("/v1/images/jobs", json={"model": PAINT, "prompt": "a boat"}, headers=ADA)
        assert refused.status_code == 429
    await close(kept)


async def test_a_job_keeps_the_lowest_priority_where_its_tenants_ceiling_is_lower_than_usual() -> None:
    settings = several({"ada": {"highest_priority": 3}})
    kept, service = clocked(settings, Clock()), FakeService()
    async with client_of(create_app(service, settings, kept)) as client:
        for extra in ({}, {"triptych": {"priority": 4}}):
            told = await client.post("/v1/images/jobs", json={"model": PAINT, "prompt": "a boat", **extra}, headers=ADA)
            await over(client, f"/v1/images/jobs/{told.json()['id']}")
    assert [context.priority for context in service.contexts] == [10, 4]
    await close(kept)


async def close(kept: Kept) -> None:
    await kept.close()
    kept.threads.close()
