"""Spans to a collector, as OTLP over HTTP, behind everything: what can't be sent in time is dropped. Decides which spans are recorded, and
what is told of an error. The only module that knows OpenTelemetry; imported where traces are on.

Spans are sent by a thread of the SDK's, a batch at a time. Standard variables (OTEL_EXPORTER_OTLP_HEADERS, ..._CERTIFICATE) hold for it.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from pipelines.telemetry.trace_context import parsed
from stages.contract.trace import ErrorStatus, Span, Trace, Value

QUEUE_SPANS, BATCH_SPANS = 4096, 512
SEND_WITHIN_S, SEND_EVERY_MS = 5.0, 1000.0
ENDED_BY_CALLER = (asyncio.CancelledError, GeneratorExit)
KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}


class _Ids(IdGenerator):
    """Of the system's own chance: replicas are forks, and whoever seeds `random` would have them alike."""

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or 1

    def generate_trace_id(self) -> int:
        return secrets.randbits(128) or 1


@dataclass(frozen=True, slots=True)
class OtlpSpan:
    span: otel.Span

    @property
    def trace(self) -> Trace | None:
        context = self.span.get_span_context()
        if not self.span.is_recording():
            return None
        state = context.trace_state.to_header() if context.trace_state else ""
        return Trace(f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}", state)

    def set(self, attributes: Mapping[str, Value]) -> None:
        self.span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self.span.update_name(name)

    def end(self, error: BaseException | None = None) -> None:
        if isinstance(error, ENDED_BY_CALLER):
            self.span.set_attribute("error.type", "cancelled")
        elif error is not None:  # by its kind: what it says may quote a prompt
            self.span.set_attribute("error.type", str(error) if isinstance(error, ErrorStatus) else type(error).__name__)
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class OtlpTracer:
    """`endpoint`: where a collector takes traces. `replica`: this process's name. A caller's own choice whether to record is followed."""

    def __init__(self, endpoint: str, sample_ratio: float, replica: str) -> None:
        resource = Resource({"service.name": "triptych", "service.instance.id": replica})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=resource,
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_WITHIN_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE_SPANS,
                max_export_batch_size=BATCH_SPANS,
                schedule_delay_millis=SEND_EVERY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("triptych")

    def begin(self, name: str, within: Trace | None, kind: str = "internal") -> Span:
        """`within` None: a trace of its own."""
        return OtlpSpan(self._tracer.start_span(name, _context_of(within), KINDS[kind]))

    def close(self) -> None:
        """Sends what there is. May take as long as the collector does: on a thread of its own."""
        self._provider.shutdown()


def _context_of(within: Trace | None) -> Context:
    ids = parsed(within.parent) if within is not None else None
    if within is None or ids is None:
        return Context()
    state = TraceState.from_header([within.state]) if within.state else None
    context = SpanContext(ids.trace_id, ids.span_id, is_remote=True, trace_flags=TraceFlags(ids.flags), trace_state=state)
    return otel.set_span_in_context(NonRecordingSpan(context), Context())
