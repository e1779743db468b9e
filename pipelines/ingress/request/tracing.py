"""A request's spans in the HTTP process: one of the request, by OpenTelemetry's conventions for HTTP servers, and one of what it asks of a
model, by those for generative AI. Decides their names and attributes: nothing of what was said in a prompt or an answer, and no address
that is a key. Knows no exporter.
"""

from typing import Protocol

from starlette.types import Scope

from pipelines.context import RequestContext
from pipelines.ingress.request.metrics import Answered
from pipelines.telemetry.trace_context import given_in
from stages.contract.trace import NO_SPAN, ErrorStatus, NoTracer, Span, Trace, Tracer, Value

OPERATIONS = {
    "/v1/chat/completions": ("chat", "text"),
    "/v1/responses": ("chat", "text"),
    "/v1/completions": ("text_completion", "text"),
    "/v1/embeddings": ("embeddings", ""),
    "/v1/images/generations": ("generate_content", "image"),
    "/v1/images/edits": ("generate_content", "image"),
}
"""By route: `gen_ai.operation.name`, and `gen_ai.output.type` where it has one."""
SPANS = "spans"  # in the scope's state


class RequestTracer(Tracer, Protocol):
    def begin_request(self, name: str, within: Trace | None) -> Span:
        """`within`: what its caller says it is a part of; None: a trace begins."""
        ...


class _NoRequestTracer(NoTracer):
    def begin_request(self, name: str, within: Trace | None) -> Span:
        return NO_SPAN


NO_REQUEST_TRACER = _NoRequestTracer()


class RequestSpans:
    """Of one request; begins with it."""

    def __init__(self, tracer: RequestTracer, scope: Scope) -> None:
        self._tracer = tracer
        self._whole = tracer.begin_request(scope["method"], given_in(scope["headers"]))
        self._asked: Span = NO_SPAN
        self._context: RequestContext | None = None

    @property
    def trace(self) -> Trace | None:
        return self._whole.trace

    def asks(self, model: str, path: str, context: RequestContext) -> Trace | None:
        """What is done for it belongs there. None: it isn't recorded."""
        operation, output = OPERATIONS.get(path, ("", ""))
        if self._whole.trace is None or not operation:
            return self._whole.trace
        self._context = context
        self._asked = self._tracer.begin(f"{operation} {model}", self._whole.trace)
        told: dict[str, Value] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "triptych",
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
        }
        self._asked.set(told | ({"gen_ai.output.type": output} if output else {}))
        return self._asked.trace

    def end(self, answered: Answered, request_id: str, tenant: str | None) -> None:
        if self._whole.trace is None:
            return
        error = ErrorStatus(str(answered.status)) if answered.status >= 500 else None
        if self._context is not None and (usage := self._context.usage) is not None:
            self._asked.set(
                {"gen_ai.usage.input_tokens": usage.input_tokens, "gen_ai.usage.output_tokens": usage.output_tokens}
            )
        self._asked.end(error)
        told: dict[str, Value] = {
            "http.request.method": answered.method,
            "http.route": answered.route,
            "http.response.status_code": answered.status,
            "triptych.request_id": request_id,
        }
        self._whole.rename(f"{answered.method} {answered.route}")
        self._whole.set(told | ({"triptych.tenant": tenant} if tenant is not None else {}))
        self._whole.end(error)


def trace_within(scope: Scope, model: str, context: RequestContext) -> Trace | None:
    """Of a request that asks a model. None: it isn't recorded."""
    spans = scope.get("state", {}).get(SPANS)
    path = getattr(scope.get("route"), "path", "")
    return spans.asks(model, path, context) if isinstance(spans, RequestSpans) else None
