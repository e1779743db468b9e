"""Bytes from an http(s) address that a stranger gave us, without becoming the stranger's tool.

Decides which servers may be asked: public ones, and those that the configuration names. A host is resolved once and the
connection goes to the very address that was checked, so that a name cannot change its meaning in between; every redirect is
checked again. Bounded in time, bytes and pieces, each of which is work for the event loop. Knows nothing of images.
"""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpcore
import httpx

from pipelines.ingress.images.public_address import is_public
from pipelines.ingress.images.watched_network import WatchedNetwork
from stages.contract.errors import ConfigurationError, InvalidRequest, TooLarge

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses, best first. Raises `OSError` for an unknown host, `Overloaded` where too many are being looked up."""

Held = Callable[[int], Awaitable[None]]
"""So many bytes more are held. Raises `Overloaded` where that is too many."""

MAX_REDIRECTS = 3
MAX_PIECES = 1000  # and one for each kilobyte
MAX_PORT = 65535
_MAX_ADDRESSES = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """`timeout_s` is for all of it: names, redirects and bytes. `allowed_hosts` ("host:port") may be asked though they are not
    public. Raises `ConfigurationError`."""

    enabled: bool = False
    timeout_s: float = 10
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for entry in self.allowed_hosts:
            host, _, port = entry.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigurationError(f"fetch.allowed_hosts: {entry!r} is not host:port")

    def allows(self, host: str, port: int) -> bool:
        """`host` as in an address: brackets around IPv6."""
        return f"{host}:{port}".lower() in {entry.lower() for entry in self.allowed_hosts}


class Fetcher:
    """GETs, one connection each: a kept connection would be found again by its address alone, under whatever name."""

    def __init__(
        self,
        policy: FetchPolicy,
        max_bytes: int,
        *,
        resolver: Resolver,
        tls: ssl.SSLContext | None = None,
        held: Held | None = None,
    ) -> None:
        """Reads the system's certificates, where fetching is enabled and `tls` is not given."""
        self._policy, self._max_bytes, self._resolver, self._held = policy, max_bytes, resolver, held
        self._tls = tls
        if policy.enabled and tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)

    async def fetch(self, address: str, *, param: str) -> bytes:
        """The body. Raises `InvalidRequest` naming `param` for whatever goes wrong, `TooLarge` over `max_bytes`."""
        if not self._policy.enabled:
            raise InvalidRequest(
                f"{param}: http(s) addresses are not fetched here (fetch.enabled: false); send the image as a data: URL",
                param=param,
            )
        try:
            async with asyncio.timeout(self._policy.timeout_s):
                return await self._follow(_parsed(address, param), param)
        except TimeoutError as error:
            raise InvalidRequest(
                f"{param}: did not arrive within {self._policy.timeout_s} s (fetch.timeout_s)", param=param
            ) from error

    async def _follow(self, url: httpx.URL, param: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._ask(url, await self._addresses(url, param), param)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise InvalidRequest(f"{param}: redirected more than {MAX_REDIRECTS} times", param=param)

    async def _addresses(self, url: httpx.URL, param: str) -> Sequence[str]:
        """The addresses of the host. Not one of them may be private: a name that mixes is no honest name."""
        port = url.port or _PORTS[url.scheme]
        try:
            addresses = await self._resolver(url.raw_host.decode("ascii"), port)
        except (OSError, UnicodeError) as error:
            raise InvalidRequest(f"{param}: host {url.host[:100]!r} is not known", param=param) from error
        named = self._policy.allows(f"[{url.host}]" if ":" in url.host else url.host, port)
        if not addresses or not (named or all(is_public(address) for address in addresses)):
            raise InvalidRequest(
                f"{param}: host {url.host[:100]!r} has no public address, and fetch.allowed_hosts does not name it",
                param=param,
            )
        return addresses[:_MAX_ADDRESSES]

    async def _ask(self, url: httpx.URL, addresses: Sequence[str], param: str) -> bytes | httpx.URL:
        """The body, or where to go instead. Tries the addresses in turn as long as none takes the connection."""
        for address in addresses:
            try:
                return await self._get(url, address, param)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
                why = f"{type(error).__name__}: {error}"
                raise InvalidRequest(f"{param}: {_shown(url)} did not answer as it should", param=param, detail=why) from error
        raise InvalidRequest(f"{param}: {_shown(url)} takes no connection", param=param)

    async def _get(self, url: httpx.URL, address: str, param: str) -> bytes | httpx.URL:
        headers = [
            (b"Host", url.netloc),
            (b"Accept", b"image/*"),
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"triptych"),
        ]
        pinned, patience = url.copy_with(host=address), self._policy.timeout_s
        timeout = httpx.Timeout(patience, connect=patience / (_MAX_ADDRESSES + 1))
        network = WatchedNetwork()
        async with (
            httpcore.AsyncConnectionPool(self._tls, network_backend=network) as pool,
            pool.stream(
                "GET",
                httpcore.URL(scheme=pinned.raw_scheme, host=pinned.raw_host, port=pinned.port, target=pinned.raw_path),
                headers=headers,
                extensions={"sni_hostname": url.raw_host.decode("ascii"), "timeout": timeout.as_dict()},
            ) as response,
        ):
            network.head_has_come()
            head = httpx.Headers(response.headers)
            if response.status in _REDIRECTS:
                return _redirected(url, head.get("location", ""), param)
            return await self._body(url, response, head, param)

    async def _body(self, url: httpx.URL, response: httpcore.Response, head: httpx.Headers, param: str) -> bytes:
        if response.status != 200:
            raise InvalidRequest(f"{param}: {_shown(url)} answered {response.status}", param=param)
        if head.get("content-encoding", "identity").lower() != "identity":  # it would expand past the bound
            raise InvalidRequest(f"{param}: {_shown(url)} sent compressed bytes, which were not asked for", param=param)
        length = head.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large(url, length, param)
        body, num_pieces = bytearray(), 0
        async for piece in response.aiter_stream():
            body += piece
            num_pieces += 1
            if len(body) > self._max_bytes:
                raise self._too_large(url, f"more than {self._max_bytes}", param)
            if num_pieces > MAX_PIECES + len(body) // 1024:
                raise InvalidRequest(f"{param}: {_shown(url)} sends its bytes in too many pieces", param=param)
            if self._held is not None:
                await self._held(len(piece))
        return bytes(body)

    def _too_large(self, url: httpx.URL, size: str, param: str) -> TooLarge:
        return TooLarge(
            f"{param}: {_shown(url)} has {size} bytes; at most {self._max_bytes} (limits.image_bytes)", param=param
        )


def _parsed(address: str, param: str) -> httpx.URL:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"{param}: not a valid address: {str(error)[:200]}", param=param) from error
    return _checked(url, param)


def _redirected(url: httpx.URL, location: str, param: str) -> httpx.URL:
    try:
        return _checked(url.join(location), param)
    except httpx.InvalidURL as error:
        raise InvalidRequest(f"{param}: {_shown(url)} redirects to no valid address", param=param) from error


def _checked(url: httpx.URL, param: str) -> httpx.URL:
    try:
        _ = url.host, url.raw_host  # read when they are asked for
    except UnicodeError as error:
        raise InvalidRequest(f"{param}: not a valid address: its host is no internationalized name", param=param) from error
    if url.scheme not in _PORTS or not url.host:
        raise InvalidRequest(f"{param}: {_shown(url)} is no http(s) address", param=param)
    if url.port is not None and not 0 < url.port <= MAX_PORT:
        raise InvalidRequest(f"{param}: not a valid address: a port is from 1 to {MAX_PORT}", param=param)
    if not _HOST.fullmatch(url.raw_host):
        raise InvalidRequest(f"{param}: not a valid address: its host is no name", param=param)
    if url.userinfo:
        raise InvalidRequest(f"{param}: an address with a user name or password is not fetched", param=param)
    return url


def _shown(url: httpx.URL) -> str:
    """For messages: without path and query, which may hold secrets."""
    return f"{url.scheme}://{url.host}"[:120]
