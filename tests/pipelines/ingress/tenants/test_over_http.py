"""Quotas as clients meet them: who is let in, what a refusal says, and what is charged for what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from pipelines.settings.schema.auth import QuotaConfig
from stages.contract.errors import StageFailed
from tests.pipelines.ingress.fakes import EMBED, PAINT, FakeService, Gate, Trouble
from tests.pipelines.ingress.kept.workers import Clock
from tests.pipelines.ingress.surface import client_of, error_of, sse_events
from tests.pipelines.ingress.tenants.clocked import chat, clocked, key, several

RATE = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")


@asynccontextmanager
async def surface(
    settings: IngressSettings, clock: Clock, service: FakeService | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(service or FakeService(), settings, clocked(settings, clock))) as client:
        yield client


async def test_who_asks_too_often_is_told_the_quota_its_limit_the_setting_and_when_to_come_back() -> None:
    clock = Clock()
    async with surface(several({"ada": {"requests_per_minute": 4}}), clock) as client:
        assert [(await chat(client)).status_code for _ in range(4)] == [200] * 4
        refused = await chat(client)
        assert refused.status_code == 429
        error = error_of(refused)
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        for word in ("4 times a minute", "auth.quotas.*.requests_per_minute", "try again in 15 s"):
            assert word in error["message"]
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == ("15", "15000")
        clock.now += 14.9
        assert (await chat(client)).status_code == 429
        clock.now += 0.1
        assert (await chat(client)).status_code == 200
        assert (await chat(client, "bob")).status_code == 200


async def test_what_is_left_stands_in_openais_headers_of_answers_streams_refusals_and_failures() -> None:
    clock, service = Clock(), FakeService()
    async with surface(several({"ada": {"requests_per_minute": 4}}), clock, service) as client:
        answers = [await chat(client), await chat(client, stream=True), await chat(client, n=0)]
        service.trouble = Trouble(StageFailed("broken"))
        answers += [await chat(client), await chat(client)]
        others = [await chat(client, "bob"), await client.get("/v1/models", headers=key("ada"))]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 500, 429]
    left = [[answer.headers[name] for name in RATE] for answer in answers]
    assert left == [["4", "3", "15s"], ["4", "2", "30s"], ["4", "1", "45s"], ["4", "0", "1m0s"], ["4", "0", "1m0s"]]
    assert not [name for answer in others for name in RATE if name in answer.headers]


async def test_only_what_asks_for_work_is_counted() -> None:
    paths = ("/v1/models", "/v1/usage", "/metrics", "/v1/images/jobs", "/v1/batches", "/v1/files", "/openapi.json", "/ready")
    async with surface(several({"ada": {"requests_per_minute": 1}}), Clock()) as client:
        assert [(await client.get(path, headers=key("ada"))).status_code for path in paths] == [200] * len(paths)
        assert (await chat(client)).status_code == 200
        assert [(await client.get(path, headers=key("ada"))).status_code for path in paths] == [200] * len(paths)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/completions", {}),
        ("/v1/responses", {}),
        ("/v1/embeddings", {}),
        ("/v1/images/generations", {}),
        ("/v1/images/edits", {}),
        ("/v1/images/jobs", {}),
        ("/v1/batches", {}),
        ("/tokenize", {}),
    ],
)
async def test_a_refusal_comes_before_the_body_is_looked_at(path: str, body: dict[str, str]) -> None:
    async with surface(several({"ada": {"requests_per_minute": 1}}), Clock()) as client:
        first = await client.post(path, json=body, headers=key("ada"))
        second = await client.post(path, json=body, headers=key("ada"))
    assert (first.status_code in (400, 415), second.status_code) == (True, 429)


async def test_requests_under_way_take_places_until_their_last_byte_and_however_they_end() -> None:
    gate = Gate(after=1)
    service = FakeService(gate=gate)
    async with surface(several({"ada": {"concurrent_requests": 1}}), Clock(), service) as client:
        under_way = asyncio.create_task(chat(client, stream=True))
        await gate.reached.wait()
        refused = await chat(client)
        assert refused.status_code == 429
        assert "1 requests of this tenant are being answered, and at most 1 may be" in error_of(refused)["message"]
        assert "auth.quotas.*.concurrent_requests" in error_of(refused)["message"]
        assert float(refused.headers["retry-after"]) > 0
        assert (await client.get("/v1/models", headers=key("ada"))).status_code == 200
        gate.open.set()
        assert (await under_way).status_code == 200
        for how in ({}, {"n": 0}, {"model": "nope"}):
            assert (await chat(client, **how)).status_code != 429
        service.trouble = Trouble(StageFailed("broken"), after=1)
        assert (await chat(client)).status_code == 500
        assert (await chat(client, stream=True)).status_code == 200
        service.trouble = None
        assert (await chat(client)).status_code == 200


async def test_a_client_that_goes_away_leaves_its_place() -> None:
    gate = Gate()
    service = FakeService(gate=gate)
    async with surface(several({"ada": {"concurrent_requests": 1}}), Clock(), service) as client:
        under_way = asyncio.create_task(chat(client))
        await gate.reached.wait()
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way
        service.gate = None
        assert (await chat(client)).status_code == 200


async def test_devices_time_is_charged_by_receipts_and_who_has_overdrawn_waits() -> None:
    """A chat of the fake service takes two hundredths of a second, a painting more."""
    clock = Clock()
    async with surface(several({"ada": {"device_seconds_per_minute": 0.015}}), clock) as client:
        first = await chat(client)
        assert first.json()["triptych"]["device_s"] == 0.02
        refused = await chat(client)
        assert refused.status_code == 429
        for word in (
            "taken 0.02 s that it has yet to make up for",
            "0.015 s a minute",
            "auth.quotas.*.device_seconds_per_minute",
        ):
            assert word in error_of(refused)["message"]
        assert float(refused.headers["retry-after-ms"]) == pytest.approx(20_000, abs=1)
        clock.now += 20.001
        assert (await chat(client)).status_code == 200
        assert not [name for name in RATE if name in first.headers]


async def test_an_urgency_beyond_the_tenants_is_refused_and_what_says_none_gets_the_most_urgent_it_may_have() -> None:
    service = FakeService()
    async with surface(several({"ada": {"highest_priority": 3}, "bob": {"highest_priority": -2}}), Clock(), service) as client:
        for asked, told in ((2, "more urgent than 3"), (0, "more urgent than 3"), (-10, "more urgent than 3")):
            refused = await chat(client, triptych={"priority": asked})
            assert refused.status_code == 400
            assert error_of(refused)["param"] == "triptych.priority"
            assert told in error_of(refused)["message"]
            assert "auth.quotas.*.highest_priority" in error_of(refused)["message"]
        unsaid, lowly = await chat(client), await chat(client, triptych={"priority": 7})
        [note] = unsaid.json()["triptych"]["notes"]
        assert note["field"] == "triptych.priority"
        assert "at most 3" in note["note"]
        assert "notes" not in lowly.json()["triptych"]
        assert (await chat(client, "bob", triptych={"priority": -2})).status_code == 200
        assert (await chat(client, "bob", triptych={"priority": -3})).status_code == 400
        assert (await chat(client, "bob")).status_code == 200
        assert error_of(await chat(client, "root", triptych={"priority": -1}))["param"] == "triptych.priority"
    assert [context.priority for context in service.contexts] == [3, 7, -2, 0]


async def test_quotas_that_change_while_it_serves_hold_for_what_was_asked_before() -> None:
    clock, settings = Clock(), several({"ada": {"requests_per_minute": 2}})
    kept = clocked(settings, clock)
    async with client_of(create_app(FakeService(), settings, kept)) as client:
        assert [(await chat(client)).status_code for _ in range(3)] == [200, 200, 429]
    wider = several({"ada": {"requests_per_minute": 3}})
    async with client_of(create_app(FakeService(), wider, kept)) as client:
        assert [(await chat(client)).status_code for _ in range(2)] == [200, 429]
    async with client_of(create_app(FakeService(), several(), kept)) as client:
        assert [(await chat(client)).status_code for _ in range(3)] == [200, 200, 200]


async def test_without_quotas_nothing_is_refused_and_no_header_tells_of_any() -> None:
    settings = IngressSettings(quotas={"ada": QuotaConfig(requests_per_minute=1)})
    async with surface(settings, Clock()) as client:
        answers = [await chat(client) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert not [name for answer in answers for name in RATE if name in answer.headers]


async def test_what_a_stream_used_is_charged_when_it_is_through() -> None:
    clock = Clock()
    async with surface(several({"ada": {"device_seconds_per_minute": 0.001}}), clock) as client:
        stream = await chat(client, stream=True)
        assert any("triptych" in event for event in sse_events(stream.text))
        assert (await chat(client)).status_code == 429
        for body in ({"model": EMBED, "input": "a"}, {"model": PAINT, "prompt": "a boat"}):
            path = "/v1/embeddings" if "input" in body else "/v1/images/generations"
            assert (await client.post(path, json=body, headers=key("ada"))).status_code == 429
