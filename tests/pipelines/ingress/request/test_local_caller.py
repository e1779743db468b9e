"""Who is answered where there are no keys: what a browser says on behalf of other pages, and what others say to any route."""

import hashlib
from collections.abc import Mapping

import httpx
import pytest

from pipelines.ingress.app import create_app
from pipelines.ingress.request.settings import IngressSettings
from tests.pipelines.ingress.fakes import CHAT, PAINT, FakeService
from tests.pipelines.ingress.surface import chat_body, client_for, error_of, png

HERE = "127.0.0.1:8000"
KEYED = IngressSettings(keys={hashlib.sha256(b"secret").hexdigest(): "ada"})
ROUTES = [
    *(
        ("GET", path)
        for path in ("/", "/playground/main.js", "/v1/models", f"/v1/models/{CHAT}", "/health", "/ready", "/metrics")
    ),
    *(("GET", path) for path in ("/openapi.json", "/v1/images/files/x", "/no/such/route", "/-/routes/", "/docs")),
    *(
        ("POST", f"/v1/{path}")
        for path in ("chat/completions", "images/generations", "images/edits", "images/jobs", "embeddings")
    ),
    *(
        (method, f"/v1/images/jobs/imgjob-1{path}")
        for method, path in (("GET", ""), ("GET", "/content"), ("POST", "/cancel"), ("DELETE", ""))
    ),
    *(("OPTIONS", path) for path in ("/v1/chat/completions", "/no/such/route")),
]

STRANGERS: dict[str, Mapping[str, str]] = {
    "a name that resolves to loopback": {"host": "evil.example:8000"},
    "a name that begins like loopback": {"host": "127.0.0.1.evil.example"},
    "a name under localhost": {"host": "evil.localhost"},
    "every address": {"host": "0.0.0.0:8000"},
    "another machine's address": {"host": "192.168.1.2:8000"},
    "no host": {"host": ""},
    "a host with a user": {"host": "evil.example@127.0.0.1"},
    "a host with a path": {"host": "127.0.0.1/evil.example"},
    "another site's page": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    "another port's page": {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    "another site's frame": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
    "a site of a kind yet to come": {"sec-fetch-site": "whatever"},
    "another site's origin": {"origin": "https://evil.example"},
    "another port's origin": {"origin": "http://127.0.0.1:3000"},
    "another scheme's origin": {"origin": f"https://{HERE}"},
    "a sandbox's or a file's origin": {"origin": "null"},
    "an origin with this one in it": {"origin": f"http://{HERE}.evil.example"},
    "no origin's text": {"origin": f"http://{HERE}/"},
    "an origin that is empty": {"origin": ""},
}

USERS: dict[str, Mapping[str, str]] = {
    "curl or an SDK": {},
    "a name of loopback": {"host": "localhost:8000"},
    "IPv6": {"host": "[::1]:8000"},
    "another address of loopback": {"host": "127.8.9.10"},
    "this server's own page": {"sec-fetch-site": "same-origin", "origin": f"http://{HERE}"},
    "an address that was typed": {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    "the page under a name of loopback": {"host": "localhost:8000", "origin": "http://localhost:8000"},
    "the usual port, said and unsaid": {"host": "localhost", "origin": "http://localhost:80"},
}


class Surface:
    """The app over fakes, as a peer reaches it."""

    def __init__(self) -> None:
        self.service = FakeService()
        self._app = create_app(self.service, IngressSettings())

    async def asked(self, method: str, path: str, headers: Mapping[str, str], peer: str = "127.0.0.1") -> httpx.Response:
        transport = httpx.ASGITransport(self._app, client=(peer, 50000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HERE}") as client:
            return await client.request(method, path, headers=headers)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return Surface()


@pytest.mark.parametrize("headers", STRANGERS.values(), ids=STRANGERS)
async def test_no_route_answers_or_does_anything_for(surface: Surface, headers: Mapping[str, str]) -> None:
    jobs = list(surface.service.jobs)
    for method, path in ROUTES:
        answer = await surface.asked(method, path, headers)
        assert (path, answer.status_code, error_of(answer)["code"]) == (path, 403, "forbidden")
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert surface.service.jobs == jobs


@pytest.mark.parametrize("headers", USERS.values(), ids=USERS)
async def test_every_route_is_there_for(surface: Surface, headers: Mapping[str, str]) -> None:
    for method, path in ROUTES:
        assert (await surface.asked(method, path, headers)).status_code != 403


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "unknown"])
async def test_another_machine_is_not_answered_however_it_came_to_reach_this_one(surface: Surface, peer: str) -> None:
    assert (await surface.asked("GET", "/health", {}, peer)).status_code == 403


@pytest.mark.parametrize("told", ["203.0.113.7", "127.0.0.1, 203.0.113.7", "203.0.113.7, 127.0.0.1", "unknown"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
async def test_what_a_proxy_on_this_machine_says_of_the_other_one_counts(surface: Surface, peer: str, told: str) -> None:
    """uvicorn heeds proxies at 127.0.0.1 only."""
    assert (await surface.asked("GET", "/health", {"x-forwarded-for": told}, peer)).status_code == 403
    assert (await surface.asked("GET", "/health", {"x-forwarded-for": "127.0.0.1, ::1"}, peer)).status_code == 200


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is(surface: Surface, peer: str) -> None:
    assert (await surface.asked("GET", "/health", {}, peer)).status_code == 200


async def test_two_hosts_are_one_too_many() -> None:
    async with client_for(FakeService()) as client:
        answer = await client.get("/health", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert answer.status_code == 403


async def test_a_link_elsewhere_opens_the_page_and_nothing_else(surface: Surface) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await surface.asked("GET", "/", headers)).status_code == 200
    assert (await surface.asked("POST", "/", headers)).status_code == 403
    for method, path in ROUTES[1:]:
        assert (await surface.asked(method, path, headers)).status_code == 403


async def test_a_form_of_another_page_that_needs_no_preflight_edits_nothing() -> None:
    service = FakeService()
    async with client_for(service) as client:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
            answer = await client.post(
                "/v1/images/edits", data={"model": PAINT, "prompt": "a"}, files={"image": png()}, headers=headers
            )
            assert answer.status_code == 403
    assert service.jobs == []


async def test_a_refusal_has_an_id_and_is_counted() -> None:
    async with client_for(FakeService()) as client:
        refused = await client.get("/v1/models", headers={"origin": "null", "x-request-id": "trace-1"})
        page = (await client.get("/metrics")).text
    assert refused.headers["x-request-id"] == "trace-1"
    assert 'triptych_http_requests_total{method="GET",route="other",status="403"} 1.0' in page


async def test_with_keys_the_key_decides_and_no_page_of_another_origin_can_use_one() -> None:
    """No CORS header is ever sent: a preflight is refused, so a page can't send a key, and without one it gets a 401 that it can't read."""
    service = FakeService()
    async with client_for(service, KEYED) as client:
        elsewhere = {"host": "models.example", "origin": "https://app.example", "sec-fetch-site": "cross-site"}
        with_key = await client.post(
            "/v1/chat/completions", json=chat_body(), headers=elsewhere | {"authorization": "Bearer secret"}
        )
        without = await client.post("/v1/chat/completions", json=chat_body(), headers=elsewhere)
        preflight = await client.options(
            "/v1/chat/completions", headers=elsewhere | {"access-control-request-headers": "authorization"}
        )
    assert [answer.status_code for answer in (with_key, without, preflight)] == [200, 401, 405]
    for answer in (with_key, without, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert len(service.jobs) == 1
