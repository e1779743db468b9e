"""What the served system does with too much, and with nonsense: never a 5xx of its own, never a hang."""

import asyncio
from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from tests.cluster.server import WAIT_S, Server, eventually
from tests.pipelines.ingress.fakes import FakeService

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PAINT = "triptych-paint"
NOT_WRONG = {"x-schemathesis-unknown-property", "x-request-timeout-seconds"}
"""Headers: one that nobody knows, which anybody may send, and one in whose place the test sends its own."""
BURST = 72  # more than the denoiser may run and keep waiting


schema = schemathesis.openapi.from_dict(create_app(FakeService(), IngressSettings()).openapi())
schema.config.phases.coverage.enabled = (
    False  # every field's every bound, thousands of requests: tests/fuzz asks the surface alone
)


@schema.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_generated_requests_get_described_answers_from_the_served_system(server: Server, case: schemathesis.Case) -> None:
    response = case.call(base_url=server.url, headers={"x-request-timeout-seconds": "5"}, timeout=WAIT_S)
    excluded = [positive_data_acceptance] + ([not_a_server_error] if response.status_code == 504 else [])
    is_form = case.media_type == "multipart/form-data"  # in which a number is a text like any other
    if is_form or NOT_WRONG & {name.lower() for name in case.headers or {}}:
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


async def burst(server: Server) -> Counter[int]:
    # A first batch is done in time on a slow machine, too, where two denoisers share two cores.
    body = {"model": PAINT, "prompt": "a red ring", "num_inference_steps": 12}
    headers = {"x-request-timeout-seconds": "60"}
    limits = httpx.Limits(max_connections=BURST)
    async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_S, trust_env=False, limits=limits) as client:
        calls = [client.post("/v1/images/generations", json=body, headers=headers) for _ in range(BURST)]
        answers = await asyncio.gather(*calls)
    for answer in answers:
        if answer.status_code in (429, 503):
            assert int(answer.headers.get("retry-after", 0)) >= 1, answer.text
    return Counter(answer.status_code for answer in answers)


def test_a_burst_beyond_the_queue_is_told_to_come_back_and_the_rest_is_served(server: Server) -> None:
    eventually(lambda: server.replicas()["denoiser"] == 1, "nothing is left of other tests' load")
    statuses = asyncio.run(burst(server))
    assert set(statuses) <= {200, 429, 503, 504}, statuses
    assert statuses[429] + statuses[503] > 0, statuses
    assert statuses[200] > 0, statuses
    eventually(lambda: server.counter("triptych_stage_running", f"{PAINT}.denoiser") == 0, "the denoiser is free")
    assert server.http.post("/v1/images/generations", json={"model": PAINT, "prompt": "a red ring"}).status_code == 200
