"""The same request is known when it comes again, by its body, and no other is taken for it."""

from typing import Any

import pytest

from pipelines.ingress.app import create_app
from pipelines.ingress.body.bodies import DIGESTED_BYTES, digest_of
from pipelines.ingress.request.settings import IngressSettings
from tests.pipelines.ingress.fakes import EMBED, PAINT, FakeService
from tests.pipelines.ingress.surface import chat_body, client_of, png

EDIT = {"model": PAINT, "prompt": "a boat"}


@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        ("/v1/chat/completions", chat_body(), chat_body("hello where")),
        ("/v1/images/generations", EDIT, EDIT | {"seed": 1}),
        ("/v1/embeddings", {"model": EMBED, "input": "a"}, {"model": EMBED, "input": "b"}),
    ],
)
async def test_a_body_that_comes_again_is_known(path: str, body: dict[str, Any], other: dict[str, Any]) -> None:
    service = FakeService()
    async with client_of(create_app(service, IngressSettings())) as client:
        for asked in (body, body, other):
            assert (await client.post(path, json=asked)).is_success
    first, second, third = [context.asked for context in service.contexts]
    assert first
    assert first == second != third


async def test_who_asks_the_same_with_another_time_to_do_it_in_is_not_who_was_told_to_come() -> None:
    service = FakeService()
    async with client_of(create_app(service, IngressSettings())) as client:
        for seconds in ("9", "9", "90"):
            answer = await client.post(
                "/v1/chat/completions", json=chat_body(), headers={"x-request-timeout-seconds": seconds}
            )
            assert answer.is_success
    first, second, third = [context.asked for context in service.contexts]
    assert first == second != third


async def test_so_is_a_form_whose_boundary_is_drawn_by_lot() -> None:
    service = FakeService(edits=True)
    async with client_of(create_app(service, IngressSettings())) as client:
        for colour in ("red", "red", "blue"):
            files = {"image": ("a.png", png(colour=colour), "image/png")}
            assert (await client.post("/v1/images/edits", data=EDIT, files=files)).is_success
    first, second, third = [context.asked for context in service.contexts]
    assert first
    assert first == second != third


def test_of_a_large_body_its_length_and_ends_are_looked_at() -> None:
    body = bytes(4 * DIGESTED_BYTES)
    changed = bytearray(body)
    changed[-1] = 1
    found = {digest_of(body), digest_of(body + b"\0"), digest_of(b"\1" + body[1:]), digest_of(changed)}
    assert len(found) == 4
    assert digest_of(bytearray(body)) == digest_of(body)


@pytest.mark.parametrize("at", [0, DIGESTED_BYTES - 3, 3 * DIGESTED_BYTES, 6 * DIGESTED_BYTES - DIGESTED_BYTES - 3])
def test_what_differs_each_time_may_lie_anywhere(at: int) -> None:
    body = bytes(6 * DIGESTED_BYTES)
    first, second = (body[:at] + lot + body[at:] for lot in (b"abcdefgh", b"ijklmnop"))
    assert digest_of(first, apart_from=b"abcdefgh") == digest_of(second, apart_from=b"ijklmnop")
