"""What surrounds every request: its id in and out, its count and duration, what is charged for it, a 500 for what should not have
happened, and an end for a client that reads nothing.

An ASGI middleware of its own, because Starlette's wrapper for functions hides a client that goes away. Knows no routes.
"""

import logging
import time
import uuid

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.ingress.proxy.proxy_headers import REQUEST_ID, is_request_id
from pipelines.ingress.request.disconnect import SEND_WITHIN_S, ClientGone, send_in_time
from pipelines.ingress.request.errors import CLIENT_CLOSED_REQUEST, internal_error
from pipelines.ingress.request.metrics import Answered, RequestMetrics
from pipelines.ingress.request.tracing import NO_REQUEST_TRACER, SPANS, RequestSpans, RequestTracer
from pipelines.ingress.tenants.meter import METERED, Meter, Metered
from pipelines.telemetry.json_logs import REQUEST_ID_NOW
from stages.contract.trace import Trace

logger = logging.getLogger(__name__)
requests = logging.getLogger("triptych.requests")


class RequestLog:
    """`adds_id` False: what stands before the app (Serve's proxy) puts x-request-id into the answer itself."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: RequestMetrics,
        meter: Meter,
        *,
        tracer: RequestTracer = NO_REQUEST_TRACER,
        adds_id: bool = True,
        send_within_s: float = SEND_WITHIN_S,
    ) -> None:
        self._tracer, self._meter = tracer, meter
        self._app, self._metrics, self._adds_id, self._send_within_s = app, metrics, adds_id, send_within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        spans = RequestSpans(self._tracer, scope)
        watch = _Watch(scope, send, spans.trace, adds_id=self._adds_id, send_within_s=self._send_within_s)
        # The routes' own requests have these from here.
        scope.setdefault("state", {}).update({"request_id": watch.request_id, SPANS: spans})
        REQUEST_ID_NOW.set(watch.request_id)
        self._metrics.begin()
        try:
            await self._answer(scope, receive, watch)
        except (ClientDisconnect, ClientGone):
            logger.debug("the client of request %s went away", watch.request_id)
        finally:
            self._end(scope, watch, spans)

    async def _answer(self, scope: Scope, receive: Receive, watch: "_Watch") -> None:
        try:
            await self._app(scope, receive, watch)
        except (ClientDisconnect, ClientGone):
            raise
        except Exception:
            logger.exception("request %s failed", watch.request_id)
            if watch.status is None:
                await internal_error(watch.request_id)(scope, receive, watch)

    def _end(self, scope: Scope, watch: "_Watch", spans: RequestSpans) -> None:
        answered = Answered(
            route=getattr(scope.get("route"), "path", "other"),
            method=scope["method"] if scope["method"] in ("GET", "POST") else "other",
            status=watch.status or CLIENT_CLOSED_REQUEST,
            total_s=time.perf_counter() - watch.began,
            first_byte_s=watch.first_byte_s,
            model=scope["state"].get("model", ""),
        )
        tenant, metered = scope["state"].get("tenant"), _metered(scope)
        if metered is not None:
            self._meter.end(metered)
        self._metrics.end(answered, tenant)
        spans.end(answered, watch.request_id, tenant)
        told = {"tenant": tenant, "model": answered.model, "status": answered.status, "seconds": round(answered.total_s, 6)}
        requests.info("%s %s: %d", answered.method, answered.route, answered.status, extra=told)


class _Watch:
    """Stands before `send`: completes the headers, and notes status and time of the first byte."""

    def __init__(self, scope: Scope, send: Send, trace: Trace | None, *, adds_id: bool, send_within_s: float) -> None:
        self.request_id = request_id(scope)
        self._scope, self._send, self._send_within_s = scope, send, send_within_s
        self._headers = [(b"x-content-type-options", b"nosniff")]
        if adds_id:
            self._headers.append((REQUEST_ID.encode(), self.request_id.encode()))
        if trace is not None:
            self._headers.append((b"traceresponse", trace.parent.encode()))
        self.began = time.perf_counter()
        self.status: int | None = None
        self.first_byte_s: float | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            metered = _metered(self._scope)
            left = [(name.encode(), told.encode()) for name, told in metered.headers.items()] if metered is not None else []
            message = {**message, "headers": [*message.get("headers", []), *self._headers, *left]}
        elif self.first_byte_s is None and message.get("body"):
            self.first_byte_s = time.perf_counter() - self.began
        await send_in_time(self._send, message, self._send_within_s)


def _metered(scope: Scope) -> Metered | None:
    """None: it was not let in, nor refused, by a tenant's quotas."""
    found: Metered | None = scope["state"].get(METERED)
    return found


def request_id(scope: Scope) -> str:
    """The client's own id where it is one (1-128 letters, digits and .:_-), a new one otherwise."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), b"")
    return given.decode() if is_request_id(given) else uuid.uuid4().hex
