"""What may be said of how Triptych tells what it does: traces and logs. Metrics are always there (GET /metrics). Decides what is an address
of a collector. Knows no exporter."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipelines.settings.schema.strict import Strict


class TracesConfig(Strict):
    """Spans of requests and stages, sent as OTLP over HTTP."""

    endpoint: str = Field(description="where a collector takes traces: http://collector:4318/v1/traces")
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="how many of the traces that begin here are recorded; a caller's own choice is followed"
    )

    @field_validator("endpoint")
    @classmethod
    def is_an_address(cls, given: str) -> str:
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{given!r} is no address of a collector; write http://NAME:4318/v1/traces")
        if "@" in parts.netloc:
            raise ValueError("no user and no password in it; headers are given in the variable OTEL_EXPORTER_OTLP_HEADERS")
        return given


class TelemetryConfig(Strict):
    """`traces` None: none. `logs`: what Triptych's own processes write; "json": an object a line, with request, tenant and stage."""

    traces: TracesConfig | None = None
    logs: Literal["text", "json"] = "text"
