"""Behind a proxy that collects answers and gives up on who is silent: streams come through as they are made, and long work as jobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from pipelines.ingress.request.own_address import OwnAddress
from pipelines.ingress.request.settings import IngressSettings
from stages.contract.errors import InvalidRequest, QueueFull, StageFailed, TriptychError
from tests.pipelines.ingress.fakes import PAINT, FakeService, Gate, Trouble
from tests.pipelines.ingress.proxies import CuttingProxy, behind_a_proxy
from tests.pipelines.ingress.surface import JsonObject, chat_body, error_of, server_for, sse_events

CHAT_PATH, PAINT_PATH, JOBS = "/v1/chat/completions", "/v1/images/generations", "/v1/images/jobs"
SILENT_S = 1.0
SETTINGS = IngressSettings(heartbeat_s=0.05, headers_within_s=0.05)
WAIT_S = 20


@asynccontextmanager
async def client_behind_a_proxy(
    service: FakeService, settings: IngressSettings = SETTINGS
) -> AsyncIterator[tuple[httpx.AsyncClient, CuttingProxy]]:
    async with server_for(service, settings) as upstream, behind_a_proxy(upstream, silent_s=SILENT_S) as (address, proxy):
        async with httpx.AsyncClient(base_url=address, headers={"connection": "close"}, timeout=WAIT_S) as client:
            yield client, proxy


def painting(**fields: object) -> JsonObject:
    return {"model": PAINT, "prompt": "a boat", "seed": 1, **fields}


@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, chat_body("a b", stream=True)), (PAINT_PATH, painting(stream=True))])
@pytest.mark.parametrize("after", [0, 2])
async def test_a_stream_outlasts_the_proxys_patience_before_and_after_its_first_event(
    path: str, body: JsonObject, after: int
) -> None:
    service = FakeService(gate=Gate(after=after))
    assert service.gate is not None
    now = asyncio.get_running_loop().time
    async with client_behind_a_proxy(service) as (client, proxy), client.stream("POST", path, json=body) as response:
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-cache, no-transform"
        began, text, num_heartbeats = now(), "", 0
        async for piece in response.aiter_text():
            text += piece
            num_heartbeats = text.count(": working")
            if now() - began > 2 * SILENT_S:
                service.gate.open.set()
    assert num_heartbeats > 2
    assert sse_events(text)[-1].get("error") is None
    assert proxy.cuts == 0
    assert service.running == 0


@pytest.mark.parametrize(
    ("error", "status"), [(InvalidRequest("no", param="prompt"), 400), (QueueFull("full", retry_after_s=1), 429)]
)
@pytest.mark.parametrize(("path", "body"), [(CHAT_PATH, chat_body(stream=True)), (PAINT_PATH, painting(stream=True))])
async def test_what_can_be_refused_is_refused_with_its_status(
    path: str, body: JsonObject, error: TriptychError, status: int
) -> None:
    async with client_behind_a_proxy(FakeService(trouble=Trouble(error))) as (client, _):
        response = await client.post(path, json=body)
    assert response.status_code == status
    assert error_of(response)["code"] == error.code


async def test_what_goes_wrong_after_the_headers_is_an_event_in_openais_shape() -> None:
    service = FakeService(gate=Gate(after=0), trouble=Trouble(StageFailed("a secret"), after=1))
    assert service.gate is not None
    async with (
        client_behind_a_proxy(service) as (client, _),
        client.stream("POST", CHAT_PATH, json=chat_body(stream=True)) as response,
    ):
        assert response.status_code == 200
        service.gate.open.set()
        text = "".join([piece async for piece in response.aiter_text()])
    assert set(sse_events(text)[-1]["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in text
    assert text.endswith("data: [DONE]\n\n")


async def test_long_work_without_a_stream_is_cut_and_as_a_job_it_is_not() -> None:
    service = FakeService(gate=Gate(after=2))
    assert service.gate is not None
    async with client_behind_a_proxy(service) as (client, proxy):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(PAINT_PATH, json=painting())
        assert proxy.cuts == 1
        told = (await client.post(JOBS, json=painting())).json()
        await asyncio.wait_for(service.gate.reached.wait(), WAIT_S)
        service.gate.open.set()
        async with asyncio.timeout(WAIT_S):
            while told["status"] != "completed":
                told = (await client.get(f"{JOBS}/{told['id']}")).json()
        assert (await client.get(f"{JOBS}/{told['id']}/content")).headers["content-type"] == "image/png"
        assert proxy.cuts == 1


async def test_addresses_in_answers_are_those_of_the_proxy_where_it_is_trusted() -> None:
    settings = IngressSettings(address=OwnAddress(None, ("127.0.0.1",)))
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "api.example.com", "x-forwarded-for": "127.0.0.1"}
    async with client_behind_a_proxy(FakeService(), settings) as (client, _):
        answer = await client.post(PAINT_PATH, json=painting(response_format="url"), headers=forwarded)
        job = await client.post(JOBS, json=painting(), headers=forwarded)
        plain = await client.post(PAINT_PATH, json=painting(response_format="url"))
    assert answer.json()["data"][0]["url"].startswith("https://api.example.com/v1/images/files/")
    assert job.headers["location"].startswith("https://api.example.com/v1/images/jobs/")
    assert plain.json()["data"][0]["url"].startswith(str(client.base_url))
