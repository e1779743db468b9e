"""Which addresses are public."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingress.images.public_address import is_public

PRIVATE_V4 = ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0"]


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.15.0.1", "2606:4700::1111", "2001:4860:4860::8888"])
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *PRIVATE_V4,
        "127.255.255.254",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::127.0.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "100::1",
        "64:ff9b:1::1",
        "2001::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
    ],
)
def test_special_addresses_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PRIVATE_V4)
@pytest.mark.parametrize("prefix", ["::ffff:0:0", "64:ff9b::", "::"])
def test_a_private_address_inside_an_ipv6_one_is_not_public(address: str, prefix: str) -> None:
    inside = int(ipaddress.IPv6Address(prefix)) | int(ipaddress.IPv4Address(address))
    assert not is_public(str(ipaddress.IPv6Address(inside)))


@pytest.mark.parametrize("address", PRIVATE_V4)
def test_a_private_address_inside_a_6to4_one_is_not_public(address: str) -> None:
    inside = 0x2002 << 112 | int(ipaddress.IPv4Address(address)) << 80
    assert not is_public(str(ipaddress.IPv6Address(inside)))


def test_a_public_address_inside_an_ipv6_one_stays_public() -> None:
    assert is_public("::ffff:8.8.8.8")
    assert is_public("64:ff9b::808:808")


@pytest.mark.parametrize("text", ["", "localhost", "8.8.8", "0x7f.1", "2130706433", "127.1", "[::1]", "8.8.8.8:80"])
def test_what_is_no_address_is_not_public(text: str) -> None:
    assert not is_public(text)


@given(st.ip_addresses())
def test_whatever_python_calls_private_is_never_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast or not address.is_global:
        assert not is_public(str(address))
