"""Whatever stands in an `image_url`, no server is asked but a public one, under the name that was checked."""

import socket
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.ingress.images.fetch import Fetcher, FetchPolicy
from pipelines.ingress.images.public_address import is_public
from stages.contract.errors import InvalidRequest
from tests.fuzz.effort import effort
from tests.fuzz.mutations import mutated

PARAM = "messages[0].content[0].image_url.url"
PRIVATE = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "fd00:ec2::254", "0.0.0.0"]
WRITTEN = [
    "127.1",
    "0x7f.1",
    "2130706433",
    "017700000001",
    "[::1]",
    "[::ffff:7f00:1]",
    "localhost",
    "127.0.0.1.",
    "\uff11\uff12\uff17.0.0.1",
]
SEEDS = [
    f"{scheme}://{host}{rest}".encode()
    for scheme in ("http", "https")
    for host in (*PRIVATE[:3], *WRITTEN, "example.com", "xn--nxasmq6b.example")
    for rest in ("/cat.png", ":8080/?a#b")
]
PIECES = [
    b"@",
    b":",
    b"#",
    b"?",
    b"/",
    b"\\",
    b"//",
    b"%2e",
    b"%00",
    b"%40",
    b"\t",
    b" ",
    b"[",
    b"]",
    b".",
    b"\xe3\x80\x82",
    b"localhost",
    b":99999",
]
ADDRESSES = mutated(SEEDS, PIECES).map(lambda data: data.decode(errors="replace")) | st.text(max_size=40).map(
    "http://{}/".format
)


class Watched(Fetcher):
    """Notes which addresses would be connected to, and connects to none."""

    def __init__(self, answer: Sequence[str] | None) -> None:
        super().__init__(FetchPolicy(enabled=True), 1000, resolver=self._answer)
        self._given, self.asked, self.connected = answer, list[str](), list[str]()

    async def _answer(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if self._given is not None:
            return self._given
        found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)  # what the system makes of odd ways to write one
        return [str(entry[4][0]) for entry in found]

    async def _get(self, url: object, address: str, param: str) -> bytes:
        self.connected.append(address)
        return b""


async def fetched(address: str, answer: Sequence[str] | None) -> Watched:
    watched = Watched(answer)
    with suppress(InvalidRequest):  # which is what most are for
        await watched.fetch(address, param=PARAM)
    return watched


@effort(300)
@given(ADDRESSES, st.lists(st.sampled_from(PRIVATE), min_size=1, max_size=2))
async def test_a_name_with_a_private_address_is_never_connected_to(address: str, private: list[str]) -> None:
    assert (await fetched(address, [*private, "8.8.8.8"])).connected == []
    assert (await fetched(address, ["8.8.8.8", *private])).connected == []


@effort(300)
@given(ADDRESSES)
@example("http://2130706433/")
@example("http://0x7f.1/")
@example("http://[::ffff:7f00:1]:80808080808080808080/")
async def test_no_way_to_write_a_private_address_gets_past(address: str) -> None:
    connected = (await fetched(address, None)).connected
    assert all(is_public(reached) for reached in connected)


@effort(300)
@given(ADDRESSES)
@example("http://\\/")
@example("http://[::%\ufffd1]/cat.png")
async def test_the_host_that_is_looked_up_is_no_control_text(address: str) -> None:
    for host in (await fetched(address, ["8.8.8.8"])).asked:
        assert host.isascii()
        assert not set(host) & set("/\\@?# \t\r\n\0")


@pytest.mark.parametrize(
    "address", ["http://user@127.0.0.1/", "http://127.0.0.1@example.com/", "ftp://example.com/", "http:///x"]
)
async def test_what_is_no_plain_address_asks_nobody(address: str) -> None:
    assert (await fetched(address, ["8.8.8.8"])).connected == []
