"""An app that takes another's place, because settings changed."""

import asyncio

from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.body.body_budget import FREE_BYTES
from pipelines.ingress.request.settings import IngressSettings
from pipelines.settings.schema.config import LimitsConfig
from tests.pipelines.ingress.fakes import PAINT, FakeService
from tests.pipelines.ingress.surface import chat_body, client_of, error_of


async def test_images_and_counters_outlive_the_app_that_made_them_and_limits_dont() -> None:
    kept = Kept.new(IngressSettings())
    painting = {"model": PAINT, "prompt": "a boat", "response_format": "url"}
    async with client_of(create_app(FakeService(), IngressSettings(), kept)) as before:
        (entry,) = (await before.post("/v1/images/generations", json=painting)).json()["data"]
    stricter = IngressSettings(LimitsConfig(max_choices=1))
    async with client_of(create_app(FakeService(), stricter, kept)) as after:
        assert (await after.get(entry["url"])).headers["content-type"] == "image/png"
        assert "limits.max_choices" in error_of(await after.post("/v1/chat/completions", json=chat_body(n=2)))["message"]
        page = (await after.get("/metrics")).text
    counted = [line for line in page.splitlines() if line.startswith("triptych_http_requests_total") and "generations" in line]
    assert [line.rpartition(" ")[2] for line in counted] == ["1.0"]


async def test_an_app_of_its_own_keeps_its_own() -> None:
    async with client_of(create_app(FakeService(), IngressSettings())) as one:
        painting = {"model": PAINT, "prompt": "a boat", "response_format": "url"}
        (entry,) = (await one.post("/v1/images/generations", json=painting)).json()["data"]
    async with client_of(create_app(FakeService(), IngressSettings())) as other:
        assert (await other.get(entry["url"])).status_code == 404


async def test_an_app_that_is_being_built_changes_nothing_of_what_the_one_before_it_goes_by() -> None:
    """It is built on a thread, and may be refused; who waits for room does so on the event loop."""
    kept = Kept.new(IngressSettings(LimitsConfig(body_bytes=1024, body_bytes_in_flight=FREE_BYTES)))
    await kept.bodies.take("", FREE_BYTES)
    waiting = asyncio.ensure_future(kept.bodies.take("", 1))
    await asyncio.sleep(0)
    larger = LimitsConfig(body_bytes_in_flight=32 * 2**20)
    await asyncio.to_thread(create_app, FakeService(), IngressSettings(larger), kept)
    assert kept.bodies.held_bytes == FREE_BYTES
    kept.limit(larger)
    await waiting
    assert kept.bodies.held_bytes == FREE_BYTES + 1
