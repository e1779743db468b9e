"""Where traces may be sent."""

import pytest
from pydantic import ValidationError

from pipelines.settings.schema.telemetry import TelemetryConfig, TracesConfig


@pytest.mark.parametrize("endpoint", ["http://collector:4318/v1/traces", "https://[::1]:4318/v1/traces"])
def test_a_collector_has_an_address(endpoint: str) -> None:
    assert TracesConfig(endpoint=endpoint).endpoint == endpoint


@pytest.mark.parametrize(
    "endpoint",
    ["", "collector:4318", "grpc://collector:4317", "http:///v1/traces", "http://a:b@collector/v1/traces", "http://c/?k=1"],
)
def test_what_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint"):
        TracesConfig(endpoint=endpoint)


def test_nothing_is_recorded_and_logs_are_text_unless_somebody_says_so() -> None:
    assert TelemetryConfig() == TelemetryConfig(traces=None, logs="text")
