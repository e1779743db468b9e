"""GET /metrics: what this ingress has served, and what every stage counts, as Prometheus text. Decides what of it is one tenant's own;
who sees the rest, not. Knows no routes and no stages by name."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.jobs import Service
from stages.concurrency.thread_pool import ThreadPool
from stages.contract.errors import TriptychError
from stages.contract.item import StageMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STAGE_LABELS = ("stage", "pool", "replica", "device")


@dataclass(frozen=True, slots=True)
class Answered:
    """One request. `first_byte_s` None: nothing was sent."""

    route: str
    method: str
    status: int
    total_s: float
    first_byte_s: float | None


class RequestCounts:
    """Of some requests, by route template, never by path: a path is the client's to choose."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "triptych_http_requests", "Requests answered.", ("route", "method", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "triptych_http_request_seconds",
            "From arrival to the last byte.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first_byte_seconds = Histogram(
            "triptych_http_first_byte_seconds",
            "From arrival to the first byte of the body.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )

    def add(self, answered: Answered) -> None:
        self._requests.labels(answered.route, answered.method, str(answered.status)).inc()
        self._seconds.labels(answered.route).observe(answered.total_s)
        if answered.first_byte_s is not None:
            self._first_byte_seconds.labels(answered.route).observe(answered.first_byte_s)

    def page(self) -> bytes:
        return generate_latest(self._registry)


class RequestMetrics:
    """Of all requests, and of each tenant's own."""

    def __init__(self) -> None:
        self._all, self._by_tenant = RequestCounts(), defaultdict[str, RequestCounts](RequestCounts)
        self._registry = CollectorRegistry()
        self._running = Gauge("triptych_http_requests_running", "Requests being answered.", registry=self._registry)

    def begin(self) -> None:
        self._running.inc()

    def end(self, answered: Answered, tenant: str | None) -> None:
        """`tenant` None: nobody knows who asked."""
        self._running.dec()
        self._all.add(answered)
        if tenant is not None:
            self._by_tenant[tenant].add(answered)

    def own_page(self, tenant: str) -> bytes:
        """What a tenant has asked, as text, and nothing of what others have."""
        return self._by_tenant[tenant].page()

    async def page(self, service: Service, writing: ThreadPool) -> bytes:
        """Everything as text, which is made on a thread of `writing`. Where nobody can tell of the stages, `triptych_stage_metrics_up` is
        0 and the rest is there."""
        try:
            stages, up = await service.stage_metrics(), 1
        except TriptychError:
            stages, up = [], 0
        return await writing.run(self._page, stages, up)

    def _page(self, stages: Sequence[StageMetrics], up: int) -> bytes:
        registry = CollectorRegistry()
        registry.register(_StageCollector(stages, up))
        return self._all.page() + generate_latest(self._registry) + generate_latest(registry)


class _StageCollector(Collector):
    def __init__(self, stages: Sequence[StageMetrics], up: int) -> None:
        self._stages, self._up = stages, up

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("triptych_stage_metrics_up", "Whether the stages' counters could be read.", value=self._up)
        rows = defaultdict[str, list[tuple[StageMetrics, float]]](list)
        for stage in self._stages:
            for name, value in stage.counters.items():
                rows[name].append((stage, value))
        for name, values in sorted(rows.items()):
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(f"triptych_stage_{name.removesuffix('_total')}", f"{name} of a stage.", labels=STAGE_LABELS)
            for stage, value in values:
                family.add_metric([stage.stage, stage.pool, stage.replica, stage.device], value)
            yield family
