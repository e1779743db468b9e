"""What /metrics says, over real stages and several replicas of the HTTP surface, and what Prometheus' own tools say of it."""

import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.cluster.state.metrics_table import MetricsTable
from pipelines.cluster.state.surface_counts import SurfaceCounts
from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.request.settings import IngressSettings
from stages.contract.errors import Unavailable
from tests.pipelines.ingress.fakes import CHAT, PAINT
from tests.pipelines.ingress.metrics.measured import Measured, measured
from tests.pipelines.ingress.surface import chat_body, client_of

Samples = Mapping[str, Mapping[frozenset[tuple[str, str]], float]]


class TableHandle:
    """As much of Serve's handle of the metrics table as callers use."""

    def __init__(self) -> None:
        self.table, self.is_away = MetricsTable(), False

    def __getattr__(self, method: str) -> "TableMethod":
        return TableMethod(self, method)


class TableMethod:
    def __init__(self, handle: TableHandle, method: str) -> None:
        self._handle, self._method = handle, method

    async def remote(self, *given: Any) -> Any:
        if self._handle.is_away:
            raise Unavailable("away")
        return await getattr(self._handle.table, self._method)(*given)


def surface(service: Measured, handle: TableHandle, replica: str) -> tuple[Any, SurfaceCounts, Kept]:
    counts = SurfaceCounts(handle, replica)
    kept = Kept.new(IngressSettings(), surfaces=counts)
    return create_app(service, IngressSettings(), kept), counts, kept


async def page_of(client: httpx.AsyncClient) -> Samples:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(number for given, number in samples[name].items() if labels.items() <= dict(given).items())


async def ask(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 200
    assert (await client.post("/v1/images/generations", json={"model": PAINT, "prompt": "a boat"})).status_code == 200


async def test_times_and_batches_are_told_as_histograms_by_stage_and_model() -> None:
    async with measured() as service, client_of(create_app(service, IngressSettings())) as client:
        await ask(client)
        samples = await page_of(client)
    of_llm, of_denoiser = {"stage": f"{CHAT}.llm", "model": CHAT}, {"stage": f"{PAINT}.denoiser", "model": PAINT}
    for name, labels in (
        ("time_to_first_token_seconds", of_llm),
        ("queue_seconds", of_llm),
        ("item_seconds", of_denoiser),
        ("first_event_seconds", of_denoiser),
    ):
        assert value(samples, f"triptych_stage_{name}_count", **labels) == 1
        assert value(samples, f"triptych_stage_{name}_bucket", le="+Inf", **labels) == 1
    steps = value(samples, "triptych_stage_batches_total", **of_llm)
    assert value(samples, "triptych_stage_step_seconds_count", **of_llm) == steps
    assert value(samples, "triptych_stage_batch_size_sum", **of_llm) == steps  # nobody was beside it
    assert value(samples, "triptych_stage_inter_token_seconds_count", **of_llm) == steps - 1
    assert value(samples, "triptych_model_request_seconds_count", model=PAINT, route="/v1/images/generations") == 1
    assert value(samples, "triptych_stage_process_memory_bytes") > 0
    assert value(samples, "triptych_stage_event_loop_tasks") > 0
    assert value(samples, "triptych_http_event_loop_tasks") > 0


async def test_gateways_find_what_they_read_by_model() -> None:
    async with measured() as service, client_of(create_app(service, IngressSettings())) as client:
        samples = await page_of(client)
    for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"):
        assert samples[name] == {frozenset({("model_name", CHAT)}): 0.0}


async def test_a_model_that_is_not_served_has_no_series() -> None:
    async with measured() as service, client_of(create_app(service, IngressSettings())) as client:
        assert (await client.post("/v1/chat/completions", json=chat_body(model="a" * 40))).status_code == 404
        assert "a" * 40 not in (await client.get("/metrics")).text


async def test_every_replica_of_the_surface_tells_of_all_and_no_counter_falls() -> None:
    """Whichever of them a scrape comes to."""
    handle, name = TableHandle(), "triptych_http_requests_total"
    async with measured() as service:
        apps = [surface(service, handle, replica)[0] for replica in ("one", "two")]
        async with client_of(apps[0]) as one, client_of(apps[1]) as two:
            seen: dict[frozenset[tuple[str, str]], float] = {}
            for turn in range(8):
                await ask((one, two)[turn % 2])
                page = await page_of((one, two)[turn // 2 % 2])
                assert all(page[name].get(series, -1) >= counted for series, counted in seen.items())
                seen = dict(page[name])
            await page_of(one)
            samples = await page_of(two)
    for replica in ("one", "two"):
        assert value(samples, name, replica=replica, route="/v1/chat/completions", status="200") == 4


async def test_a_replica_nobody_scrapes_is_counted_by_what_it_tells() -> None:
    handle = TableHandle()
    async with measured() as service:
        (asked, counts, kept), (scraped, _, _) = (surface(service, handle, replica) for replica in ("one", "two"))
        async with client_of(asked) as one, client_of(scraped) as two:
            await ask(one)
            counts.tell_soon(kept.metrics.num_ended, kept.metrics.counts)
            assert counts._telling is not None
            await counts._telling
            samples = await page_of(two)
    assert value(samples, "triptych_model_requests_total", replica="one", model=CHAT, status="200") == 1


async def test_while_the_table_is_away_a_replica_tells_of_itself() -> None:
    handle = TableHandle()
    async with measured() as service:
        apps = [surface(service, handle, replica)[0] for replica in ("one", "two")]
        async with client_of(apps[0]) as one, client_of(apps[1]) as two:
            await ask(one)
            await page_of(two)
            handle.is_away = True
            samples = await page_of(one)
    replicas = {dict(labels)["replica"] for labels in samples["triptych_http_requests_total"]}
    assert replicas == {"one"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="Debian's prometheus is not installed: apt-get install prometheus"
)
async def test_promtool_finds_nothing_to_say_of_the_page() -> None:
    """But for the colon in names that gateways look for."""
    async with measured() as service, client_of(create_app(service, IngressSettings())) as client:
        await ask(client)
        page = (await client.get("/metrics")).content
    checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)  # noqa: ASYNC221
    said = [line for line in checked.stderr.decode().splitlines() if not line.startswith("vllm:")]
    assert said == []
