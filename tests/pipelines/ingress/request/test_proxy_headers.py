"""What Serve's proxy gets to see of a request's headers."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.ingress.request.proxy_headers import OwnHeaders

Headers = list[tuple[bytes, bytes]]


async def passed_on(*headers: tuple[bytes, bytes]) -> Headers:
    seen: list[Headers] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(list(scope["headers"]))

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    await OwnHeaders(app)({"type": "http", "headers": headers}, receive, send)
    return seen[0]


async def test_the_timeout_goes_on_under_our_own_name_and_the_switch_for_disconnects_does_not() -> None:
    found = await passed_on(
        (b"x-request-timeout-seconds", b"5"), (b"x-request-disconnect-disabled", b"1"), (b"accept", b"*/*")
    )
    assert found == [(b"x-triptych-timeout-seconds", b"5"), (b"accept", b"*/*")]


@pytest.mark.parametrize("given", [b"a", b"trace-1.2:3_4", b"x" * 128])
async def test_a_request_id_goes_on(given: bytes) -> None:
    assert await passed_on((b"x-request-id", given)) == [(b"x-request-id", given)]


@pytest.mark.parametrize("given", [b"", b"a b", b"a\n", "größer".encode(), b"x" * 129, b"<script>"])
async def test_what_is_no_request_id_is_taken_off_so_that_the_proxy_makes_one(given: bytes) -> None:
    assert await passed_on((b"x-request-id", given)) == []
