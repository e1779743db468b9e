"""Streams: chunks, first errors, late errors, heartbeats, and clients that go away. Where a connection must break, a real
one."""

import asyncio
import json

import httpx
import pytest

from pipelines.context import RequestContext
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.recent_receipts import RecentReceipts
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.chat_answers import ChatHead, ChatStreamWriter
from pipelines.jobs import ChoiceEvents
from stages.contract.errors import QueueFull, StageFailed
from stages.llm.messages import TokenDelta
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService, Gate, Trouble
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, error_of, server_for, sse_events

CHAT_PATH, PAINT_PATH, EMBED_PATH = "/v1/chat/completions", "/v1/images/generations", "/v1/embeddings"
WAIT_S = 20  # a bound for what should happen at once, so that a failure is a failure and not a hang


async def streamed(body: JsonObject, service: FakeService | None = None) -> str:
    async with client_for(service or FakeService()) as client:
        response = await client.post(CHAT_PATH, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return response.text


async def test_a_stream_says_the_same_as_the_whole_answer_and_ends_with_done() -> None:
    text = await streamed(chat_body("one two three"))
    events = sse_events(text)
    assert "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"]) == (
        "You said: one two three"
    )
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert text.endswith("data: [DONE]\n\n")
    assert len({event["id"] for event in events}) == 1


async def test_the_receipt_comes_with_the_last_chunk_only() -> None:
    events = sse_events(await streamed(chat_body()))
    assert [("triptych" in event) for event in events] == [False] * (len(events) - 1) + [True]
    assert all("usage" not in event for event in events)
    assert all(event["choices"] for event in events)


async def test_usage_is_null_until_a_last_chunk_without_choices() -> None:
    events = sse_events(await streamed(chat_body("a b", stream_options={"include_usage": True})))
    assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["total_tokens"] == 6
    assert events[-1]["triptych"]["stages"]


async def test_every_choice_of_a_stream_has_a_role_an_end_and_its_own_text() -> None:
    events = sse_events(await streamed(chat_body("a", n=2)))
    for index in (0, 1):
        choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "You said: a"
        assert [choice["finish_reason"] for choice in choices][-1] == "stop"


async def test_logprobs_stream_with_their_text() -> None:
    events = sse_events(await streamed(chat_body("a", logprobs=True)))
    tokens = [
        entry["token"] for event in events for c in event["choices"] if c["logprobs"] for entry in c["logprobs"]["content"]
    ]
    assert tokens == ["You", " said:", " a"]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_event_has_its_own_status(stream: bool) -> None:
    service = FakeService(trouble=Trouble(QueueFull("256 requests wait already", retry_after_s=2.5)))
    async with client_for(service) as client:
        response = await client.post(CHAT_PATH, json=chat_body(stream=stream))
    assert response.status_code == 429
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("3", "2500")
    assert error_of(response)["code"] == "queue_full"
    assert service.running == 0


async def test_an_error_after_the_first_event_is_the_streams_last_event() -> None:
    service = FakeService(trouble=Trouble(StageFailed("the llm broke"), after=2))
    text = await streamed(chat_body(), service)
    assert sse_events(text)[-1]["error"]["message"].startswith(
        "a stage failed on this request; the log says more under request id "
    )
    assert text.endswith("data: [DONE]\n\n")


async def test_an_unexpected_error_in_a_stream_tells_no_details(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(trouble=Trouble(RuntimeError("a secret path"), after=2))
    text = await streamed(chat_body(), service)
    assert sse_events(text)[-1]["error"]["type"] == "server_error"
    assert "secret" not in text
    assert "a secret path" in caplog.text


async def test_a_stage_that_is_slow_keeps_the_line_warm_with_comments() -> None:
    service = FakeService(gate=Gate(after=2))
    assert service.gate is not None
    async with server_for(service, IngressSettings(heartbeat_s=0.01)) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            async with client.stream("POST", CHAT_PATH, json=chat_body(stream=True)) as response:
                lines = []
                async for line in response.aiter_lines():
                    lines.append(line)
                    if line.startswith(":"):
                        service.gate.open.set()
    assert "data: [DONE]" in lines
    assert service.running == 0


async def test_words_that_come_together_travel_as_one_chunk_a_choice() -> None:
    context = RequestContext()
    head = ChatHead.new(CHAT, "triptych", context)
    writer = ChatStreamWriter(
        head, context, ReceiptPrinter(lambda tenant: True, RecentReceipts()), num_choices=2, include_usage=False
    )
    said = [
        await writer.frame(ChoiceEvents(index, [TokenDelta(word, 1) for word in words]))
        for index, words in enumerate(["ab", "x"])
    ]
    chunks = [sse_events(frame.decode()) for frame in said]
    assert [[choice["delta"]["content"] for chunk in frame for choice in chunk["choices"]] for frame in chunks] == [
        ["ab"],
        ["x"],
    ]
    assert await writer.frame(ChoiceEvents(0, [TokenDelta("", 1)])) == b""


@pytest.mark.parametrize(
    ("path", "body", "after"),
    [
        (CHAT_PATH, chat_body(), 0),
        (CHAT_PATH, chat_body(), 3),
        (CHAT_PATH, chat_body(stream=True), 0),
        (CHAT_PATH, chat_body(stream=True), 3),
        (PAINT_PATH, {"model": PAINT, "prompt": "a boat"}, 3),
        (PAINT_PATH, {"model": PAINT, "prompt": "a boat", "stream": True, "triptych": {"progress": True}}, 3),
        (EMBED_PATH, {"model": EMBED, "input": "a boat"}, 0),
    ],
)
async def test_a_client_that_goes_away_cancels_the_work(path: str, body: JsonObject, after: int) -> None:
    service = FakeService(gate=Gate(after=after))
    assert service.gate is not None
    async with server_for(service) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(_raw_post(path, body))
        await asyncio.wait_for(service.gate.reached.wait(), WAIT_S)
        writer.close()
        await asyncio.wait_for(service.gate.cancelled.wait(), WAIT_S)
    assert service.running == 0


async def test_the_work_ends_when_its_time_is_up() -> None:
    service = FakeService(gate=Gate(after=1))
    assert service.gate is not None
    async with client_for(service) as client:
        response = await client.post(CHAT_PATH, json=chat_body(), headers={"x-request-timeout-seconds": "0.05"})
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false"
    assert service.gate.cancelled.is_set()


async def test_a_stream_whose_time_is_up_ends_with_an_error_event() -> None:
    service = FakeService(gate=Gate(after=3))
    assert service.gate is not None
    async with client_for(service) as client:
        response = await client.post(CHAT_PATH, json=chat_body(stream=True), headers={"x-request-timeout-seconds": "0.2"})
    assert response.status_code == 200
    assert sse_events(response.text)[-1]["error"]["code"] == "deadline_exceeded"
    assert service.gate.cancelled.is_set()


async def test_other_requests_are_answered_while_one_waits() -> None:
    service = FakeService(gate=Gate())
    assert service.gate is not None
    async with client_for(service) as client:
        waiting = asyncio.create_task(client.post(CHAT_PATH, json=chat_body()))
        await service.gate.reached.wait()
        assert (await client.get("/v1/models")).status_code == 200
        service.gate.open.set()
        assert (await waiting).json()["model"] == CHAT


def _raw_post(path: str, body: JsonObject) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
