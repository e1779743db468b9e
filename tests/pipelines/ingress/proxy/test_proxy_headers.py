"""What Serve's proxy gets to see of a request's headers."""

import pytest
from starlette.types import Message, Receive, Scope, Send

from pipelines.ingress.proxy.proxy_headers import OwnHeaders

Headers = list[tuple[bytes, bytes]]


async def passed_on(*headers: tuple[bytes, bytes]) -> Headers:
    return list((await passed({"type": "http", "path": "/v1/models", "headers": headers}))["headers"])


async def passed(given: Scope) -> Scope:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    await OwnHeaders(app)(given, receive, send)
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


async def test_what_serve_itself_would_tell_everybody_goes_on_to_the_app() -> None:
    given: Scope = {"type": "http", "path": "/-/routes", "headers": []}
    assert (await passed(given))["path"] == "/-/routes/"
    health: Scope = {"type": "http", "path": "/-/healthz", "headers": []}
    assert (await passed(health))["path"] == "/-/healthz"
