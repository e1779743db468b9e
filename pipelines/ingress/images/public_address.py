"""Whether an internet address is public: one that a stranger may make this server talk to.

Pure. Knows no names, no sockets, no policy. Where an IPv6 address carries an IPv4 address inside (mapped, 6to4, NAT64), both
must be public. When in doubt, no: the registries (IANA special-purpose address registries, RFC 6890) are added to what
Python knows of them.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_NEVER = tuple(
    ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata lives here
        "192.88.99.0/24",  # 6to4 relays, withdrawn
        "168.63.129.16/32",  # a cloud's host agent, on a public address
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """`address` as a resolver gives it (a scope such as %eth0 included). False also for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        return _is_public_v6(parsed)
    return _is_public_v4(parsed)


def _is_public_v4(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and not _is_listed(address)


def _is_public_v6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return _is_public_v4(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_v4(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None and not _is_public_v4(address.sixtofour):
        return False
    return address in _UNICAST and address.is_global and not address.is_multicast and not _is_listed(address)


def _is_listed(address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _NEVER if network.version == address.version)
