"""A client against answers as a server gives them, and as it doesn't."""

import json
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest

from benchmarks.mixed.asked import Asked
from benchmarks.mixed.client import ask, begin
from benchmarks.mixed.requests import CLIP, PAINT, SEE, Kind, Size, request
from tests.pipelines.ingress import fakes
from tests.pipelines.ingress.surface import client_for

SIZE = Size(tokens=2, steps=1)
GREEDY, EMBEDDING = request(Kind.GREEDY, 1, SIZE), request(Kind.EMBEDDING, 1, SIZE)
CHUNK = {"choices": [{"delta": {"content": "one"}}]}
FAKES = {SEE: fakes.CHAT, PAINT: fakes.PAINT, CLIP: fakes.EMBED}
LAST = {
    "choices": [{"delta": {"content": " two"}}],
    "triptych": {"stages": [{"stage": "m.llm", "ended_early": True}, {"stage": "m.llm"}]},
}


def events(*bodies: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(body)}" for body in bodies] + (["data: [DONE]"] if done else [])
    return "".join(f"{line}\n\n" for line in [": still here", *lines]).encode()


async def answered(*answers: httpx.Response | Exception, kind: Kind = Kind.GREEDY, again: bool = True) -> Asked:
    left: Sequence[httpx.Response | Exception] = answers

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal left
        first, *left = left
        if isinstance(first, Exception):
            raise first
        return first

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        found = await ask(client, begin(GREEDY if kind is Kind.GREEDY else EMBEDDING), again=again)
    assert found.ended_at is not None
    assert not left, "an answer was not asked for"
    return found


async def test_a_stream_is_told_and_its_receipt_says_which_replica_ended() -> None:
    found = await answered(httpx.Response(200, content=events(CHUNK, LAST)))
    assert (found.told, found.lost, found.status, found.error, found.num_heard) == ("one two", ["m.llm"], 200, "", 3)


async def test_a_stream_that_breaks_off_has_failed_and_is_not_asked_for_again() -> None:
    found = await answered(httpx.Response(200, content=events(CHUNK, done=False)))
    assert (found.tries, found.has_failed, found.told) == (1, True, "one")


async def test_an_error_within_a_stream_is_its_end() -> None:
    found = await answered(httpx.Response(200, content=events(CHUNK, {"error": {"message": "gone"}})))
    assert "gone" in found.error


async def test_what_found_nobody_is_asked_again_and_answered() -> None:
    refused = httpx.Response(503, headers={"Retry-After": "0.01"}, text="no live replica")
    found = await answered(refused, httpx.Response(200, json={"triptych": {"stages": []}}), kind=Kind.EMBEDDING)
    assert (found.tries, found.status, found.error) == (2, 200, "")


async def test_what_may_not_be_asked_again_is_not() -> None:
    found = await answered(httpx.Response(500, headers={"x-should-retry": "false"}, text="lost"), kind=Kind.EMBEDDING)
    assert (found.tries, found.status, found.error) == (1, 500, "500: lost")


async def test_a_broken_connection_is_no_exception_of_the_load() -> None:
    found = await answered(httpx.ConnectError("refused"), kind=Kind.EMBEDDING, again=False)
    assert (found.status, found.error) == (0, "0: ConnectError: refused")


async def test_a_refusal_says_after_what_time_to_ask_again() -> None:
    found = await answered(httpx.Response(429, headers={"Retry-After": "7"}, text="full"), kind=Kind.EMBEDDING, again=False)
    assert (found.status, found.retry_after_s) == (429, 7.0)


@pytest.mark.parametrize("kind", Kind)
async def test_the_http_surface_takes_and_answers_each_kind(kind: Kind) -> None:
    asked = request(kind, 1, Size(tokens=2, steps=2))
    asked = replace(asked, body={**asked.body, "model": FAKES[str(asked.body["model"])]})
    async with client_for(fakes.FakeService()) as client:
        found = await ask(client, begin(asked))
    assert (found.status, found.error) == (200, "")
    assert bool(found.told) == (kind is not Kind.EMBEDDING)
    assert found.num_heard >= (3 if asked.is_streamed else 1)
