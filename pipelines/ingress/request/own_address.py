"""Where clients find this server: what addresses in answers begin with.

Decides whom to believe: the configuration before all, a proxy's `x-forwarded-proto` and `x-forwarded-host` where it is one that is
trusted, and else the request's own scheme and Host header. Knows no routes.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from starlette.requests import HTTPConnection

UVICORNS_PROXY = "127.0.0.1"
"""A proxy there is believed by uvicorn itself, which puts the client that it tells of, with port 0, in its place."""
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class OwnAddress:
    """`public_url` without a slash at its end; None: as requests tell. `trusted_proxies`: addresses and networks."""

    def __init__(self, public_url: str | None, trusted_proxies: Sequence[str]) -> None:
        self._public_url = public_url
        self._trusted: list[IPv4Network | IPv6Network] = [ip_network(text) for text in trusted_proxies]

    def base(self, request: HTTPConnection) -> str:
        """With a slash at its end."""
        if self._public_url is not None:
            return f"{self._public_url}/"
        own = request.base_url
        if not self._comes_by_a_trusted_proxy(request):
            return str(own)
        scheme, host = _last(request, "x-forwarded-proto").lower(), _last(request, "x-forwarded-host")
        return str(
            own.replace(
                scheme=scheme if scheme in ("http", "https") else own.scheme,
                netloc=host if _HOST.fullmatch(host) else own.netloc,
            )
        )

    def _comes_by_a_trusted_proxy(self, request: HTTPConnection) -> bool:
        if request.client is None:
            return False
        peer = UVICORNS_PROXY if request.client.port == 0 else request.client.host
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _last(request: HTTPConnection, header: str) -> str:
    """What the nearest proxy said: those before it may be anybody."""
    return ",".join(request.headers.getlist(header)).rpartition(",")[2].strip()
