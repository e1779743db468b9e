"""How many replicas there should be, by what the engines have in hand."""

from dataclasses import dataclass, field

import pytest

from pipelines.cluster.scaling.autoscaling import LOAD, by_engines_load


@dataclass(frozen=True)
class Config:
    target_ongoing_requests: float = 8.0


@dataclass(frozen=True)
class Context:
    """As much of Serve's `AutoscalingContext` as the policy reads."""

    current_num_replicas: int = 1
    target_num_replicas: int = 1
    total_num_requests: float = 0.0
    total_queued_requests: float | None = 0.0
    aggregated_metrics: dict[str, dict[str, float]] | None = field(default_factory=dict)
    config: Config = Config()


@pytest.mark.parametrize(
    ("context", "replicas"),
    [
        (Context(aggregated_metrics={LOAD: {"a": 8.0}}), 1.0),
        (Context(aggregated_metrics={LOAD: {"a": 20.0}}), 2.5),
        (Context(2, aggregated_metrics={LOAD: {"a": 20.0, "b": 4.0}}), 3.0),
        (Context(2, aggregated_metrics={LOAD: {"a": 0.0, "b": 0.0}}), 0.0),
    ],
)
def test_the_target_is_a_load_per_replica(context: Context, replicas: float) -> None:
    assert by_engines_load(context) == (replicas, {})


def test_requests_that_a_replica_holds_for_their_inputs_do_not_count() -> None:
    waiting = Context(total_num_requests=100.0, aggregated_metrics={LOAD: {"a": 4.0}})
    assert by_engines_load(waiting)[0] == 0.5


def test_requests_that_wait_for_a_replica_count() -> None:
    assert by_engines_load(Context(total_queued_requests=12.0, aggregated_metrics={LOAD: {"a": 4.0}}))[0] == 2.0


@pytest.mark.parametrize("metrics", [None, {}])
def test_until_a_replica_has_reported_its_requests_count(metrics: dict[str, dict[str, float]] | None) -> None:
    assert by_engines_load(Context(total_num_requests=16.0, aggregated_metrics=metrics))[0] == 2.0


def test_without_replicas_serve_decides() -> None:
    assert by_engines_load(Context(0, 3)) == (3, {})
