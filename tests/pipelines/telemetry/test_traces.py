"""Spans of requests as a collector gets them: over the real exporter, the real protocol, and stages that are reached as over a cluster."""

import asyncio
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from pipelines.ingress.app import Kept, create_app
from pipelines.ingress.request.settings import IngressSettings
from pipelines.settings.schema.telemetry import TracesConfig
from pipelines.telemetry.trace_context import parsed
from pipelines.telemetry.tracer import ProcessTracer
from stages.contract.item import Item
from stages.contract.trace import Trace
from tests.pipelines.ingress.fakes import CHAT, PAINT
from tests.pipelines.ingress.staged import BAD_SEED, Staged
from tests.pipelines.ingress.surface import chat_body, client_of
from tests.pipelines.telemetry.collector import Collector, collector, told

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PAINTING = {"model": PAINT, "prompt": "a boat"}


@pytest.fixture
def receiving() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture
def tracer(receiving: Collector) -> Iterator[ProcessTracer]:
    tracer = ProcessTracer("this-process")
    tracer.follow(TracesConfig(endpoint=receiving.address))
    yield tracer
    tracer.close()


@asynccontextmanager
async def served(tracer: ProcessTracer) -> AsyncIterator[httpx.AsyncClient]:
    service = Staged(is_served=True, tracer=tracer)
    for stage in (service.embedder, service.llm, service.denoiser):
        stage.refusing.open()
        stage.gate.open()
    try:
        async with client_of(create_app(service, IngressSettings(), Kept.new(IngressSettings(), tracer=tracer))) as client:
            yield client
    finally:
        await service.close()


async def test_a_requests_spans_are_one_tree_from_its_caller_to_what_its_stages_need(
    tracer: ProcessTracer, receiving: Collector
) -> None:
    resolve, decode = f"resolve {PAINT}.text_encoder", f"{PAINT}.vae_decoder"
    async with served(tracer) as client:
        headers = {"traceparent": CALLER, "tracestate": "theirs=1"}
        answer = await client.post("/v1/images/generations", json=PAINTING, headers=headers)
        assert answer.status_code == 200
    names = ("POST /v1/images/generations", f"generate_content {PAINT}", f"{PAINT}.denoiser", resolve, decode)
    spans = await asyncio.to_thread(receiving.wait_for, *names)
    whole, asked, denoiser, text, pixels = (spans[name] for name in names)
    assert {span.trace_id.hex() for span in (whole, asked, denoiser, text, pixels)} == {CALLER.split("-")[1]}
    assert {span.trace_state for span in (whole, denoiser)} == {"theirs=1"}
    assert whole.parent_span_id.hex() == CALLER.split("-")[2]
    parents = [(asked, whole), (denoiser, asked), (text, denoiser), (pixels, asked)]
    assert [child.parent_span_id == parent.span_id for child, parent in parents] == [True] * 4
    assert all(
        parent.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano <= parent.end_time_unix_nano
        for child, parent in parents
    )
    assert len({span.span_id for span in spans.values()}) == len(spans)
    assert (told(denoiser)["triptych.batch_size"], told(denoiser)["triptych.stage"]) == (1.0, f"{PAINT}.denoiser")
    assert parsed(answer.headers["traceresponse"]) is not None
    assert answer.headers["traceresponse"].split("-")[2] == whole.span_id.hex()


async def test_a_chat_is_told_by_the_conventions_for_generative_ai_and_nothing_of_what_was_said(
    tracer: ProcessTracer, receiving: Collector
) -> None:
    async with served(tracer) as client:
        answer = (await client.post("/v1/chat/completions", json=chat_body())).json()
    spans = await asyncio.to_thread(receiving.wait_for, f"chat {CHAT}", "POST /v1/chat/completions", f"{CHAT}.llm")
    assert told(spans[f"chat {CHAT}"]) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "triptych",
        "gen_ai.request.model": CHAT,
        "gen_ai.response.model": CHAT,
        "gen_ai.output.type": "text",
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
    }
    whole = told(spans["POST /v1/chat/completions"])
    assert (whole["http.route"], whole["http.response.status_code"]) == ("/v1/chat/completions", 200)
    said = chat_body()["messages"][0]["content"]
    assert not [span for span in spans.values() if said in str(span)]


async def test_no_step_has_a_span_and_a_long_answer_no_more_than_a_short_one(
    tracer: ProcessTracer, receiving: Collector
) -> None:
    async with served(tracer) as client:
        for tokens in (2, 40):
            await client.post("/v1/chat/completions", json=chat_body(max_tokens=tokens))
    tracer.close()
    await asyncio.to_thread(receiving.wait_for, f"chat {CHAT}")
    sent = [
        len(scope.spans) for one in receiving.requests for resource in one.resource_spans for scope in resource.scope_spans
    ]
    assert sum(sent) == 2 * 3


async def test_what_a_stage_refuses_is_told_by_its_kind(tracer: ProcessTracer, receiving: Collector) -> None:
    async with served(tracer) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(seed=BAD_SEED))
    assert answer.status_code == 400
    spans = await asyncio.to_thread(receiving.wait_for, f"{CHAT}.llm", "POST /v1/chat/completions")
    assert told(spans[f"{CHAT}.llm"])["error.type"] == "InvalidRequest"
    assert told(spans["POST /v1/chat/completions"])["http.response.status_code"] == 400


async def test_a_caller_that_records_nothing_has_nothing_recorded(tracer: ProcessTracer, receiving: Collector) -> None:
    async with served(tracer) as client:
        not_sampled = await client.post("/v1/chat/completions", json=chat_body(), headers={"traceparent": CALLER[:-1] + "0"})
        await client.post("/v1/images/generations", json=PAINTING)
    await asyncio.to_thread(receiving.wait_for, "POST /v1/images/generations")
    assert "traceresponse" not in not_sampled.headers
    assert f"{CHAT}.llm" not in receiving.spans()


@pytest.mark.parametrize("fault", ["down", "hangs", "nobody there"])
async def test_a_collector_that_does_not_answer_costs_no_request_anything(receiving: Collector, fault: str) -> None:
    tracer = ProcessTracer("this-process")
    receiving.is_down = fault == "down"
    if fault == "hangs":
        receiving.hangs.clear()
    endpoint = "http://127.0.0.1:9/v1/traces" if fault == "nobody there" else receiving.address
    tracer.follow(TracesConfig(endpoint=endpoint))
    async with served(tracer) as client:
        for _ in range(3):
            assert (await client.post("/v1/chat/completions", json=chat_body())).status_code == 200
    tracer.close()  # comes back though the collector doesn't
    receiving.hangs.set()


async def test_where_no_collector_is_named_nothing_is_recorded_or_sent_and_opentelemetry_is_not_asked(
    receiving: Collector,
) -> None:
    tracer = ProcessTracer("this-process")
    tracer.follow(None)
    async with served(tracer) as client:
        answer = await client.post("/v1/chat/completions", json=chat_body(), headers={"traceparent": CALLER})
    assert answer.status_code == 200
    assert "traceresponse" not in answer.headers
    assert receiving.num_asked == 0


def test_a_span_costs_little_beside_a_millisecond_of_a_request(tracer: ProcessTracer) -> None:
    """All threads' time, with what it takes to send them: a request has about five."""
    num = 400
    began = time.process_time()
    for _ in range(num):
        span = tracer.begin_request("POST", None)
        span.set({"http.route": "/v1/chat/completions", "http.response.status_code": 200, "triptych.request_id": "a"})
        span.end()
    tracer.close()
    spent_s = time.process_time() - began
    plain = time.process_time()
    for index in range(num):
        sum(range(10_000 + index % 2))  # about a tenth of a millisecond
    plain_s = time.process_time() - plain
    assert spent_s < 4 * plain_s


def test_an_item_that_nobody_traces_is_the_message_that_it_was() -> None:
    """Replicas of an earlier version know no trace."""
    reduced = Item("a", None).__reduce__()
    assert "trace" not in reduced[1][2]  # of read_message's arguments, what is said
    assert "trace" in Item("a", None, trace=Trace(CALLER)).__reduce__()[1][2]
    traced = Item("a", None, trace=Trace(CALLER, "theirs=1"))
    assert pickle.loads(pickle.dumps(traced)).trace == Trace(CALLER, "theirs=1")  # noqa: S301 - made here
