"""Logs as JSON, an object a line."""

import io
import json
import logging
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from typing import Any

import pytest

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from pipelines.telemetry.json_logs import LOGGERS, SERVE, LogFormat
from stages.contract.item import Item
from stages.engine.work import as_stage_error
from tests.pipelines.ingress.fakes import CHAT, FakeService, Trouble
from tests.pipelines.ingress.surface import chat_body, client_of
from tests.pipelines.ingress.test_tenants import SEVERAL, key


class Lines(io.StringIO):
    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    written = Lines()
    monkeypatch.setattr("sys.stderr", written)
    monkeypatch.setattr(logging.getLogger(SERVE), "handlers", [])  # Ray Serve may have been imported
    logs = LogFormat("replica-1")
    logs.follow("json")
    yield written
    logs.close()


async def test_every_request_is_a_line_with_its_id_and_whose_it_is(lines: Lines) -> None:
    async with client_of(create_app(FakeService(), SEVERAL)) as client:
        headers = {**key("ada"), "x-request-id": "mine"}
        assert (await client.post("/v1/chat/completions", json=chat_body(), headers=headers)).status_code == 200
    (line,) = [line for line in lines.told() if line["logger"] == "triptych.requests"]
    expected = {"request_id": "mine", "tenant": "ada", "model": CHAT, "status": 200, "replica": "replica-1", "level": "INFO"}
    assert {name: line[name] for name in expected} == expected
    assert line["seconds"] > 0
    assert line["time"].endswith("Z")


async def test_what_went_wrong_is_one_line_with_its_traceback_and_its_request(lines: Lines) -> None:
    service = FakeService(trouble=Trouble(ValueError("a\nb")))
    async with client_of(create_app(service, IngressSettings())) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(), headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    (line,) = [line for line in lines.told() if line["level"] == "ERROR"]
    assert line["request_id"] == "mine"
    assert "ValueError" in line["exception"]


def test_a_stages_failure_names_stage_requests_and_tenants(lines: Lines) -> None:
    items = [
        Item(f"{request}:llm", None, tenant=tenant, request=request) for request, tenant in (("r1", "ada"), ("r2", "bob"))
    ]
    as_stage_error("see.llm", ValueError("broken"), *items)
    (line,) = lines.told()
    assert (line["stage"], line["request_id"], line["tenant"]) == ("see.llm", "r1,r2", "ada,bob")


def test_a_log_of_text_is_as_it_was(lines: Lines) -> None:
    """Loggers are as before once nobody wants JSON any more."""
    logs = LogFormat("replica-1")
    before = {name: {**vars(logging.getLogger(name)), "handlers": [*logging.getLogger(name).handlers]} for name in LOGGERS}
    logs.follow("json")
    logs.follow("json")
    logs.follow("text")
    for name, was in before.items():
        logger = logging.getLogger(name)
        assert (logger.level, logger.propagate) == (was["level"], was["propagate"])
        assert logger.handlers == was["handlers"]


def test_in_a_replica_of_serve_its_log_is_json_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a line of Serve's own there, which would stand before each."""
    serve, written, logs = logging.getLogger(SERVE), Lines(), LogFormat("replica-1")
    handler = logging.StreamHandler(written)
    monkeypatch.setattr(serve, "handlers", [MemoryHandler(capacity=1, target=handler)])
    logs.follow("json")
    serve.warning("of Serve", extra={"request_id": "mine"})
    logging.getLogger("triptych.replica").info("of ours")
    logs.follow("text")
    serve.warning("as before")
    *lines, last = written.getvalue().splitlines()
    told = [json.loads(line) for line in lines]
    assert [(line["logger"], line["message"]) for line in told] == [(SERVE, "of Serve"), ("triptych.replica", "of ours")]
    assert told[0]["request_id"] == "mine"
    assert last == "as before"
