"""Who records spans in this process: nobody, until the configuration names a collector, and whoever it names from then on.

Decides that nobody waits for a collector, neither a request nor the end of a process. Imports OpenTelemetry only where it is asked for.
"""

import logging
import threading
from typing import Protocol

from pipelines.settings.schema.telemetry import TracesConfig
from stages.contract.trace import NO_SPAN, Span, Trace

CLOSE_WITHIN_S = 1.0
log = logging.getLogger("triptych.telemetry")


class _Recording(Protocol):
    def begin(self, name: str, within: Trace | None, kind: str = "internal") -> Span: ...

    def close(self) -> None: ...


class ProcessTracer:
    """A `Tracer`. `replica`: this process's name. `follow` from one thread at a time."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._follows: TracesConfig | None = None
        self._recording: _Recording | None = None

    def follow(self, traces: TracesConfig | None) -> None:
        """Spans go where these settings say from now on; None: nowhere. Spans that have begun go where they would have."""
        if traces == self._follows:
            return
        before, self._recording, self._follows = self._recording, _recording(traces, self._replica), traces
        if before is not None:
            _closing(before)

    def begin(self, name: str, within: Trace) -> Span:
        return self._recording.begin(name, within) if self._recording is not None else NO_SPAN

    def begin_request(self, name: str, within: Trace | None) -> Span:
        """`within` None: a trace begins."""
        return self._recording.begin(name, within, "server") if self._recording is not None else NO_SPAN

    def close(self) -> None:
        """Spans that are there are sent, as far as that is done soon."""
        recording, self._recording, self._follows = self._recording, None, None
        if recording is not None:
            _closing(recording).join(CLOSE_WITHIN_S)


def _recording(traces: TracesConfig | None, replica: str) -> _Recording | None:
    if traces is None:
        return None
    from pipelines.telemetry.otlp import OtlpTracer

    return OtlpTracer(traces.endpoint, traces.sample_ratio, replica)


def _closing(recording: _Recording) -> threading.Thread:
    thread = threading.Thread(target=recording.close, name="sending the last spans", daemon=True)
    thread.start()
    return thread
