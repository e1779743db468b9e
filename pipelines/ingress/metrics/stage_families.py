"""What stages count, as Prometheus' families: one for every counter, by stage, pool, replica, device and model; and those few that
gateways look for under names of their own. Decides names, labels and help. Knows no stage but by its kind.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pipelines.ingress.metrics.help import help_of
from stages.contract.histogram import HistogramCounts
from stages.contract.item import StageMetrics

STAGE_LABELS = ("stage", "pool", "replica", "device", "model")
LANGUAGE = "llm"
OF_TOKENS = {
    "first_event_seconds": "time_to_first_token_seconds",
    "between_events_seconds": "inter_token_seconds",
}
"""What the histograms of a stage whose events are tokens are called."""


def stage_families(stages: Sequence[StageMetrics]) -> Iterable[Metric]:
    yield from _counters(stages)
    yield from _histograms(stages)
    yield from gateway_families([stage for stage in stages if stage.is_hosted and _part(stage) == LANGUAGE])


def gateway_families(language: Sequence[StageMetrics]) -> Iterable[Metric]:
    """By model, what the endpoint picker of the Gateway API's inference extension reads of a server, under the names that its model server
    protocol (docs/proposals/003-model-server-protocol) has for vLLM, which it looks for unless it is told otherwise."""
    for name, told, value in (
        ("vllm:num_requests_waiting", "Requests that wait for their turn.", _waiting),
        ("vllm:num_requests_running", "Requests that are being answered.", _running),
        ("vllm:kv_cache_usage_perc", "Slots for keys and values in use, 1 = all.", _slots_used),
    ):
        family = GaugeMetricFamily(name, told, labels=("model_name",))
        for model, of_model in _by_model(language).items():
            family.add_metric([model], value(of_model))
        if family.samples:
            yield family


def _counters(stages: Sequence[StageMetrics]) -> Iterable[Metric]:
    rows = defaultdict[str, list[tuple[StageMetrics, float]]](list)
    for stage in stages:
        for name, value in (*stage.counters.items(), *stage.memory.items()):
            rows[name].append((stage, value))
    for name, values in sorted(rows.items()):
        kind: Callable[..., CounterMetricFamily | GaugeMetricFamily]
        kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        family = kind(f"triptych_stage_{name.removesuffix('_total')}", help_of(name), labels=STAGE_LABELS)
        for stage, value in values:
            family.add_metric(_labels(stage), value)
        yield family


def _histograms(stages: Sequence[StageMetrics]) -> Iterable[Metric]:
    rows = defaultdict[str, list[tuple[StageMetrics, HistogramCounts]]](list)
    for stage in stages:
        for name, counts in stage.histograms.items():
            rows[OF_TOKENS.get(name, name) if _part(stage) == LANGUAGE else name].append((stage, counts))
    for name, histograms in sorted(rows.items()):
        family = HistogramMetricFamily(f"triptych_stage_{name}", help_of(name), labels=STAGE_LABELS)
        for stage, counts in histograms:
            family.add_metric(_labels(stage), _cumulative(counts), counts.total)
        yield family


def _cumulative(told: HistogramCounts) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, told.bounds), "+Inf"), told.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


def _labels(stage: StageMetrics) -> list[str]:
    return [stage.stage, stage.pool, stage.replica, stage.device, stage.stage.rpartition(".")[0]]


def _part(stage: StageMetrics) -> str:
    return stage.stage.rpartition(".")[2]


def _by_model(stages: Sequence[StageMetrics]) -> dict[str, list[StageMetrics]]:
    found = defaultdict[str, list[StageMetrics]](list)
    for stage in stages:
        found[stage.stage.rpartition(".")[0]].append(stage)
    return found


def _sum(stages: Sequence[StageMetrics], name: str) -> float:
    return sum(stage.counters.get(name, 0.0) for stage in stages)


def _waiting(stages: Sequence[StageMetrics]) -> float:
    return _sum(stages, "queued") + _sum(stages, "waiting_for_inputs")


def _running(stages: Sequence[StageMetrics]) -> float:
    return _sum(stages, "running")


def _slots_used(stages: Sequence[StageMetrics]) -> float:
    return min(1.0, _running(stages) / max(1.0, _sum(stages, "batch_bound_items")))
