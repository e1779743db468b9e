"""How many bytes of bodies Serve's proxy holds at a time. The proxy reads a body as fast as it comes, whatever the app has taken of it, so
what the app holds (`body_budget.py`) bounds nothing here.

Who finds no room waits for a moment and gets a 429 in the shape of every other error: where its length is declared before anything of it
is read and before a replica is asked, so that large bodies that wait for room keep nobody's place there. The proxy knows no keys, so
tenants share alike. Runs in the proxy, for all HTTP replicas behind it: the bound is the environment variable
`MAX_BYTES_VARIABLE` (`pipelines/settings/environment.py`).
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.body.body_budget import BodyBudget
from pipelines.ingress.body.early_body import declared_bytes
from pipelines.ingress.proxy.proxy_errors import error_body, send_whole
from pipelines.settings.environment import MAX_BYTES_VARIABLE
from stages.contract.errors import Overloaded

PARTS = 16
"""At most one of so many parts of all room is looked for before a body is read."""
RESERVED_S = 2.0
"""For so long room is kept for what was announced and has not come. Who has no key is turned away by a replica long before."""


class BoundedProxy:
    """ASGI middleware, next to the proxy."""

    def __init__(self, app: ASGIApp, budget: BodyBudget) -> None:
        self._app, self._budget = app, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(self._budget, receive, send)
        try:
            if await request.is_let_in(scope):
                await self._app(scope, request.receive, request.send)
        finally:
            request.close()


class _Request:
    """Between the client and the proxy, which is told that the client has left once there is no room for its body."""

    def __init__(self, budget: BodyBudget, receive: Receive, send: Send) -> None:
        self._budget, self._body, self._receive, self._send = budget, budget.body(), receive, send
        self._is_refused, self._has_begun = False, False

    async def is_let_in(self, scope: Scope) -> bool:
        """Whether there is room for it, as far as it says how long it is; else it is refused. Of what is larger than a part of all room
        that part is looked for: a replica refuses by its length what is too large."""
        declared = declared_bytes(scope)
        if declared is None:
            return True
        try:
            await self._body.reserve(min(declared, self._budget.size // PARTS), RESERVED_S)
        except Overloaded as error:
            await self._refuse(error)
        return not self._is_refused

    async def receive(self) -> Message:
        if not self._is_refused:
            try:
                return await self._body.receive(self._receive)
            except Overloaded as error:
                await self._refuse(error)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if not self._is_refused:
            self._has_begun = True
            await self._send(message)

    def close(self) -> None:
        self._body.close()

    async def _refuse(self, error: Overloaded) -> None:
        self._is_refused = True
        if self._has_begun:
            return
        self._has_begun = True
        message = f"there is no room in the proxy for this body ({MAX_BYTES_VARIABLE}); try again"
        retry_after = str(max(1, round(error.retry_after_s or 1))).encode()
        body = error_body("rate_limit_error", error.code, message)
        await send_whole(self._send, 429, [(b"retry-after", retry_after)], body)
