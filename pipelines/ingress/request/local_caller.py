"""Who may speak to a server that asks for no key: its user, from this machine, and no page of anybody else's.

Without keys whoever reaches the server counts as its one user. That it listens on loopback keeps other machines out, but not the pages
in this user's browser. Any page can send requests to loopback, and one whose own name comes to resolve to loopback (DNS rebinding) can
read the answers. So a request must be addressed to a loopback host, and a browser must say that it comes from a page of this very
server (Fetch Metadata, Origin), from one that the configuration names, or from nobody's: an address that was typed, or a link that
opens the page at /, which does nothing by itself. Who is no browser says nothing of the kind, and need not. Knows no bodies, and of
routes the page's only.
"""

from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.ingress.body.bodies import shown
from pipelines.ingress.request.errors import Forbidden, error_response
from pipelines.settings.loopback import is_loopback

PAGE = "/"
OWN_SITES = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site
OWN_PAGES = "without auth.keys only pages of this server, and of ingress.cors_origins, are answered"
DEFAULT_PORTS = {"http": 80, "https": 443}


class LocalCallersOnly:
    """ASGI middleware: answers 403 in the app's place. Stands behind `RequestLog`, which gives the request its id."""

    def __init__(self, app: ASGIApp, origins: Collection[str] = ()) -> None:
        """`origins`: whose pages may ask, too."""
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                check_local(scope, self._origins)
            except Forbidden as error:
                await error_response(error, Request(scope))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def check_local(scope: Scope, allowed: Collection[str] = ()) -> None:
    """Raises `Forbidden` for a request that may be another's than this machine's user's. `allowed`: origins whose pages may ask."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    stranger = next((address for address in _come_from(scope, headers) if not is_loopback(address)), None)
    if stranger is not None:
        raise Forbidden(f"without auth.keys only this machine is answered; the request is from {shown(stranger)}")
    if len(hosts) != 1 or not _is_loopback_host(hosts[0]):
        raise Forbidden(
            f"without auth.keys only requests to localhost, 127.0.0.1 or [::1] are answered; the Host header is {shown(hosts)}"
        )
    sites, origins = headers.getlist("sec-fetch-site"), headers.getlist("origin")
    if origins and all(given in allowed for given in origins):
        return
    if not OWN_SITES.issuperset(sites) and not _opens_the_page(scope, headers):
        raise Forbidden(
            f"without auth.keys only pages of this server are answered; Sec-Fetch-Site is {shown(sites)} (ingress.cors_origins)"
        )
    if any(_origin(given) != _own_origin(scope, hosts[0]) for given in origins):
        raise Forbidden(
            f"without auth.keys only pages of this server are answered; Origin is {shown(origins)} (ingress.cors_origins)"
        )


def _come_from(scope: Scope, headers: Headers) -> Iterator[str]:
    """Every address that it came by, as far as that is told. uvicorn puts what a proxy says in the peer's place, where the proxy is at
    127.0.0.1; at ::1 it doesn't."""
    peer = scope.get("client")
    if peer is not None:
        yield peer[0]
    for told in headers.getlist("x-forwarded-for"):
        yield from map(str.strip, told.split(","))


def _is_loopback_host(value: str) -> bool:
    """Of a Host header: a host, and a port where there is one."""
    parsed = _origin(f"http://{value}")
    return parsed is not None and is_loopback(parsed[1])


def _opens_the_page(scope: Scope, headers: Headers) -> bool:
    """Whether a person follows a link to the page, which is the same for everybody: no script of the link's page can see into it."""
    said = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope["path"] == PAGE and scope["method"] in ("GET", "HEAD") and said == ("navigate", "document")


def _own_origin(scope: Scope, host: str) -> tuple[str, str, int] | None:
    return _origin(f"{scope.get('scheme', 'http')}://{host}")


def _origin(address: str) -> tuple[str, str, int] | None:
    """Scheme, host, port. None: it is no origin of a page (`null`, a path behind it, a user before it)."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.netloc != address.partition("://")[2]:
        return None
    return None if "@" in parts.netloc else (parts.scheme, parts.hostname, port or DEFAULT_PORTS[parts.scheme])
