"""Whom to believe about where clients find this server."""

import pytest
from starlette.requests import Request

from pipelines.ingress.request.own_address import OwnAddress

PROXY, CLIENT = ("10.0.0.7", 4711), ("192.0.2.1", 4711)
REWRITTEN = ("192.0.2.1", 0)  # by uvicorn, which believes a proxy at 127.0.0.1


def request(*headers: tuple[str, str], client: tuple[str, int] | None = PROXY, scheme: str = "http") -> Request:
    raw = [(name.encode(), value.encode()) for name, value in (("host", "127.0.0.1:8000"), *headers)]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/x",
        "query_string": b"",
        "headers": raw,
        "client": client,
        "scheme": scheme,
    }
    return Request(scope)


TOLD = (("x-forwarded-proto", "https"), ("x-forwarded-host", "api.example.com"))
OWN = "http://127.0.0.1:8000/"


@pytest.mark.parametrize(
    ("trusted", "client", "expected"),
    [
        (("10.0.0.0/8",), PROXY, "https://api.example.com/"),
        (("10.0.0.7",), PROXY, "https://api.example.com/"),
        (("127.0.0.1",), REWRITTEN, "https://api.example.com/"),
        (("10.0.0.8",), PROXY, OWN),
        (("10.0.0.0/8",), CLIENT, OWN),
        ((), PROXY, OWN),
        ((), REWRITTEN, OWN),
        (("10.0.0.0/8",), None, OWN),
        (("10.0.0.0/8",), ("not an address", 1), OWN),
    ],
)
def test_a_proxy_is_believed_where_it_is_trusted(
    trusted: tuple[str, ...], client: tuple[str, int] | None, expected: str
) -> None:
    assert OwnAddress(None, trusted).base(request(*TOLD, client=client)) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), OWN),
        ((("x-forwarded-proto", "https"),), "https://127.0.0.1:8000/"),
        ((("x-forwarded-host", "api.example.com:8443"),), "http://api.example.com:8443/"),
        ((("x-forwarded-host", "evil.example, api.example.com"),), "http://api.example.com/"),
        ((("x-forwarded-host", "[2001:db8::1]:80"),), "http://[2001:db8::1]:80/"),
        ((("x-forwarded-host", "a/b"), ("x-forwarded-proto", "javascript")), OWN),
        ((("x-forwarded-host", "user@host"),), OWN),
    ],
)
def test_of_what_proxies_say_the_nearest_ones_word_counts_if_it_is_one(
    headers: tuple[tuple[str, str], ...], expected: str
) -> None:
    assert OwnAddress(None, ("10.0.0.0/8",)).base(request(*headers)) == expected


def test_what_the_configuration_says_counts_before_all() -> None:
    address = OwnAddress("https://api.example.com/triptych", ("10.0.0.0/8",))
    assert address.base(request(("x-forwarded-host", "other.example"))) == "https://api.example.com/triptych/"
