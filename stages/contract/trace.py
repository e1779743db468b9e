"""Whose trace a piece of work belongs to, and the seam to whoever records spans. Decides nothing; knows no OpenTelemetry, no exporter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from stages.contract.message import ALL, message

Value = str | int | float | bool


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Trace:
    """W3C trace context of a span that is recorded: `parent` as `traceparent` has it, `state` as `tracestate` ("": none)."""

    parent: str
    state: str = ""


class ErrorStatus(Exception):
    """What went wrong is known by its status alone."""


class Span(Protocol):
    """One thing that took time. `trace`: what happens within it belongs there; None: it isn't recorded."""

    @property
    def trace(self) -> Trace | None: ...

    def set(self, attributes: Mapping[str, Value]) -> None: ...

    def rename(self, name: str) -> None:
        """What it was is known only now."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Once."""
        ...


class Tracer(Protocol):
    """Never raises and never waits: spans that can't be sent are lost. Any thread."""

    def begin(self, name: str, within: Trace) -> Span: ...


class NoSpan:
    trace: Trace | None = None

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Nobody records it."""

    def rename(self, name: str) -> None:
        """Nobody records it."""

    def end(self, error: BaseException | None = None) -> None:
        """Nobody records it."""


class NoTracer:
    def begin(self, name: str, within: Trace) -> Span:
        return NO_SPAN


NO_SPAN = NoSpan()
NO_TRACER = NoTracer()
