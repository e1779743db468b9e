"""The board and the alert rules, against a real Prometheus that scrapes a loaded server."""

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml

from pipelines.free_port import free_port
from tests.pipelines.ingress.fakes import PAINT
from tests.pipelines.ingress.metrics.measured import measured
from tests.pipelines.ingress.metrics.test_page import TableHandle, surface
from tests.pipelines.ingress.surface import chat_body, listening

DEPLOY = Path(__file__).parents[4] / "deploy"
BOARD = DEPLOY / "grafana" / "triptych.json"
RULES = DEPLOY / "prometheus" / "alerts.yaml"
NOT_HERE = ("_redis_", "device_memory", "page_", '"429"', '"5..')
"""Of queries about what this server doesn't have: a Redis, a GPU, pages, refusals, errors. They must be sound, and are empty."""
PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Debian's prometheus is not installed: apt-get install prometheus",
)


def board_queries() -> list[tuple[str, str]]:
    board = json.loads(BOARD.read_text())
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]


def rule_queries() -> list[tuple[str, str]]:
    return [(rule["alert"], rule["expr"]) for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def as_grafana_asks(query: str) -> str:
    query = query.replace("$__rate_interval", "30s")
    for variable in ("model", "stage", "pool"):
        query = query.replace(f"${variable}", ".*")
    assert "$" not in query.replace("$value", "")
    return query


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus with the rules as they are shipped, and two scrapes a second; yields its address."""
    settings: dict[str, Any] = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "triptych", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    options = [
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(["prometheus", *options], stderr=log) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


async def asked(client: httpx.AsyncClient, query: str) -> list[Any]:
    answer = await client.get("/api/v1/query", params={"query": query})
    if answer.is_server_error:  # it listens, and has yet to read what it keeps
        answer.raise_for_status()
    told = answer.json()
    assert told["status"] == "success", (query, told)
    assert "warnings" not in told, (query, told)
    result: list[Any] = told["data"]["result"]
    return result


async def until(client: httpx.AsyncClient, query: str) -> None:
    """It has an answer: after a scrape that came too late there is none for a moment."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            if await asked(client, query):
                return
        except httpx.HTTPError:  # it is about to answer
            pass
        assert time.monotonic() < give_up_at, query
        await asyncio.sleep(0.1)


@asynccontextmanager
async def loaded_server() -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    async with measured() as service:
        app, _, _ = surface(service, TableHandle(), "surface-1")
        async with listening(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)) as address:
            async with httpx.AsyncClient(base_url=address) as client:
                yield address, client


async def load(client: httpx.AsyncClient) -> None:
    for _ in range(4):
        assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 200
        assert (await client.post("/v1/images/generations", json={"model": PAINT, "prompt": "a boat"})).status_code == 200
        assert (await client.post("/v1/chat/completions", json=chat_body(model="no-such"))).status_code == 404


async def test_every_query_of_the_board_and_of_the_rules_finds_what_a_loaded_server_tells(tmp_path: Path) -> None:
    async with loaded_server() as (address, client):
        await load(client)
        with prometheus(tmp_path, address.removeprefix("http://")) as at:
            async with httpx.AsyncClient(base_url=at) as asking:
                await until(asking, "triptych_stage_queued")
                await load(client)
                await until(asking, 'sum(increase(triptych_model_requests_total{status="200"}[30s])) > 0')
                await until(asking, "min(count_over_time(triptych_stage_queued[30s])) > 3")
                for _, query in board_queries():
                    may_be_empty = any(part in query for part in NOT_HERE)
                    await (asked if may_be_empty else until)(asking, as_grafana_asks(query))
                for _, query in rule_queries():
                    await asked(asking, query)
                assert await asked(asking, 'ALERTS{alertstate="firing"}') == []
                rules = (await asking.get("/api/v1/rules")).json()["data"]["groups"][0]["rules"]
                assert {rule["name"] for rule in rules} == {name for name, _ in rule_queries()}
                assert {rule["lastError"] for rule in rules if "lastError" in rule} <= {""}


def test_every_alert_fires_when_it_should_and_none_for_a_server_that_does_well() -> None:
    tests = DEPLOY / "prometheus" / "alerts_test.yaml"
    ran = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tested = tests.read_text()
    assert [name for name, _ in rule_queries() if f'alertname="{name}"' not in tested] == []


def test_the_example_of_a_configuration_is_one() -> None:
    example = DEPLOY / "prometheus" / "prometheus.yaml"
    ran = subprocess.run(["promtool", "check", "config", str(example)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
