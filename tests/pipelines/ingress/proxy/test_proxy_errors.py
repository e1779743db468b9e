"""What Serve's proxy refuses by itself has the shape of every other error."""

import json

import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.proxy.proxy_errors import OwnErrors
from pipelines.ingress.request.errors import TABLE
from stages.contract.errors import Overloaded, QueueFull, ReplicaLost, Unavailable


async def answered(response: ASGIApp, path: str = "/v1/chat/completions") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that reach the client."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    await OwnErrors(response)(scope, receive, send)
    start, *bodies = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(message.get("body", b"") for message in bodies)


@pytest.mark.parametrize(("status", "error"), [(429, QueueFull), (503, Unavailable)])
async def test_a_refusal_in_plain_text_becomes_one_of_ours_and_keeps_its_other_headers(
    status: int, error: type[Overloaded]
) -> None:
    given = PlainTextResponse("Request dropped due to backpressure", status, {"retry-after": "1", "x-request-id": "abc"})
    told, headers, body = await answered(given)
    assert told == status
    assert (headers["retry-after"], headers["x-request-id"], headers["content-type"]) == ("1", "abc", "application/json")
    assert int(headers["content-length"]) == len(body)
    row = TABLE[Unavailable] if error is Unavailable else TABLE[Overloaded]
    detail = json.loads(body)["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    assert (detail["type"], detail["code"], detail["param"]) == (row.type, error.code, None)
    assert row.status == status
    assert b"backpressure" not in body


@pytest.mark.parametrize(
    "given",
    [
        PlainTextResponse("metrics", 200),
        Response(b'{"error": {}}', 429, media_type="application/json"),
        Response(b"data: x\n\n", 200, media_type="text/event-stream"),
    ],
)
async def test_what_the_app_says_passes_as_it_is(given: Response) -> None:
    status, _, body = await answered(given)
    assert (status, body) == (given.status_code, given.body)


async def test_what_is_asked_of_serve_itself_is_serves_to_answer() -> None:
    assert (await answered(PlainTextResponse("draining", 503), "/-/healthz"))[2] == b"draining"


@pytest.mark.parametrize("raised", [None, RuntimeError("actor 1234 on 10.0.0.7 died")])
async def test_where_the_replica_ends_under_a_request_its_client_is_told_not_to_ask_again(raised: Exception | None) -> None:
    """Serve's proxy says nothing then, uvicorn a bare 500, which OpenAI's SDK asks again after."""

    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        if raised is not None:
            raise raised

    status, headers, body = await answered(ends)
    assert (status, headers["x-should-retry"], headers["content-type"]) == (500, "false", "application/json")
    detail = json.loads(body)["error"]
    assert (detail["type"], detail["code"]) == (TABLE[ReplicaLost].type, ReplicaLost.code)
    assert "10.0.0.7" not in detail["message"]


async def test_an_answer_that_breaks_off_has_no_other_one_behind_it() -> None:
    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert await answered(ends) == (200, {}, b"")
