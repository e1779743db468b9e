"""`triptych top`, as a person runs it, and what its numbers are made of."""

import asyncio
import re

import httpx
import pytest
import uvicorn
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.stage_rows import scrape_of, stage_rows, surface_of
from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService
from tests.pipelines.ingress.metrics.measured import measured
from tests.pipelines.ingress.surface import chat_body, listening, server_for
from tests.pipelines.ingress.test_tenants import SEVERAL, key

LLM = 'stage="see.llm",pool="l4",replica="{}",device="cuda:0",model="see"'


def page(*lines: str) -> str:
    return "\n".join(
        line.replace("{a}", "{" + LLM.format("a") + "}").replace("{b}", "{" + LLM.format("b") + "}") for line in lines
    )


def test_between_two_looks_counters_are_told_as_rates_over_all_replicas_of_a_pool() -> None:
    before = page(
        "triptych_stage_batch_bound_items{a} 8",
        "triptych_stage_items_total{a} 100",
        "triptych_stage_device_seconds_total{a} 50",
        "triptych_stage_batch_size_sum{a} 1000",
        "triptych_stage_batch_size_count{a} 1000",
    )
    now = page(
        "triptych_stage_batch_bound_items{a} 8",
        "triptych_stage_batch_bound_items{b} 8",
        "triptych_stage_queued{a} 3",
        "triptych_stage_queued{b} 4",
        "triptych_stage_items_total{a} 120",
        "triptych_stage_items_total{b} 10",  # it began meanwhile
        "triptych_stage_device_seconds_total{a} 60",
        "triptych_stage_device_seconds_total{b} 5",
        "triptych_stage_batch_size_sum{a} 1060",
        "triptych_stage_batch_size_count{a} 1010",
    )
    (row,) = stage_rows(scrape_of(before, 0.0), scrape_of(now, 10.0))
    assert (row.stage, row.pool, row.replicas, row.queued, row.room) == ("see.llm", "l4", 2, 7, 16)
    assert (row.items_s, row.busy, row.batch_size) == (3.0, 0.75, 6.0)
    assert row.hits is None


def test_a_counter_that_begins_anew_is_no_negative_rate() -> None:
    lines = "triptych_stage_batch_bound_items{a} 8", "triptych_stage_items_total{a} %d"
    (row,) = stage_rows(scrape_of(page(*lines) % 100, 0.0), scrape_of(page(*lines) % 5, 1.0))
    assert row.items_s == 5.0


def test_quantiles_are_read_within_their_bucket() -> None:
    told = page(
        "triptych_stage_batch_bound_items{a} 8",
        *(
            f'triptych_stage_step_seconds_bucket{{{LLM.format("a")},le="{bound}"}} {count}'
            for bound, count in (("0.1", 0), ("0.2", 10), ("+Inf", 10))
        ),
    )
    (row,) = stage_rows(None, scrape_of(told, 0.0))
    assert row.step_p50_s == pytest.approx(0.15)
    assert row.queue_p95_s is None


def test_requests_are_told_by_how_they_ended() -> None:
    lines = [f'triptych_http_requests_total{{route="/",method="GET",status="{status}"}} %d' for status in (200, 429, 503)]
    surface = surface_of(scrape_of("\n".join(lines) % (0, 0, 0), 0.0), scrape_of("\n".join(lines) % (20, 4, 2), 2.0))
    assert (surface.requests_s, surface.refused_s, surface.failed_s) == (13.0, 2.0, 1.0)


async def run(*arguments: str) -> tuple[int, str]:
    found = await asyncio.to_thread(CliRunner().invoke, app, ["top", *arguments], env={"TRIPTYCH_API_KEY": ""})
    return found.exit_code, found.output


async def test_once_prints_a_line_for_every_stage_of_a_running_server() -> None:
    async with measured() as service:
        config = uvicorn.Config(create_app(service, IngressSettings()), log_level="error", timeout_graceful_shutdown=1)
        async with listening(config) as address:
            async with httpx.AsyncClient(base_url=address) as client:
                assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 200
            code, said = await run("--once", "--url", address)
    assert code == 0
    (line,) = [line for line in said.splitlines() if line.startswith(f"{CHAT}.llm")]
    assert re.match(rf"{CHAT}\.llm +{CHAT}\.llm-pool +cpu +1 +0 +0 +0/16 +1\.0 .* ms", line)
    assert f"{PAINT}.denoiser" in said
    assert said.startswith("1 requests since the start")


async def test_whoever_sees_no_stages_is_told_why() -> None:
    async with server_for(FakeService(), SEVERAL) as address:
        token = key("ada")["authorization"].removeprefix("Bearer ")
        code, said = await run("--once", "--url", address, "--key", token)
        assert (code, "auth.operators" in said) == (2, True)
        code, said = await run("--once", "--url", address)
        assert (code, "TRIPTYCH_API_KEY" in said) == (2, True)


async def test_where_there_is_no_server_that_is_said() -> None:
    code, said = await run("--once", "--url", "http://127.0.0.1:9")
    assert (code, "does not answer" in said) == (2, True)
