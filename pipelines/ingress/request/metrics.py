"""GET /metrics: what the HTTP surface has served, and what every stage counts, as Prometheus text. Decides what of it is one tenant's own;
who sees the rest, not. Knows no routes and no stages by name.

Where there are several replicas of the surface, a scrape comes to any of them. Each tells of all: a series belongs to one replica, which
alone counts it, so that none ever falls; `rate` and `sum` make one of them.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from pipelines.ingress.metrics.stage_families import stage_families
from pipelines.ingress.tenants.usage import Spent
from pipelines.ingress.tenants.usage_counts import UsageCounts
from pipelines.jobs import Service
from stages.concurrency.thread_pool import ThreadPool
from stages.contract.errors import TriptychError
from stages.contract.item import StageMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
Counts = Sequence[Metric]
"""Of one replica of the HTTP surface."""


class Surfaces(Protocol):
    """All replicas of the HTTP surface; `replica`: this one. Implemented by `pipelines.cluster.state.surface_counts.py`."""

    @property
    def replica(self) -> str: ...

    async def exchange(self, own: Counts) -> Mapping[str, Counts]:
        """Tells what this one has counted; returns what each has, this one included. Raises `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Answered:
    """One request. `first_byte_s` None: nothing was sent. `model` "": it named none that is served."""

    route: str
    method: str
    status: int
    total_s: float
    first_byte_s: float | None
    model: str = ""


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
        self._of_models = Counter(
            "triptych_model_requests", "Requests to a model.", ("model", "route", "status"), registry=self._registry
        )
        self._model_seconds = Histogram(
            "triptych_model_request_seconds",
            "Of requests that were answered as asked, from arrival to the last byte.",
            ("model", "route"),
            buckets=SECONDS,
            registry=self._registry,
        )

        self.usage = UsageCounts(self._registry)

    def add(self, answered: Answered) -> None:
        self._requests.labels(answered.route, answered.method, str(answered.status)).inc()
        self._seconds.labels(answered.route).observe(answered.total_s)
        if answered.first_byte_s is not None:
            self._first_byte_seconds.labels(answered.route).observe(answered.first_byte_s)
        if answered.model:
            self._of_models.labels(answered.model, answered.route, str(answered.status)).inc()
            if answered.status < 400:
                self._model_seconds.labels(answered.model, answered.route).observe(answered.total_s)

    def counts(self) -> Counts:
        return list(self._registry.collect())

    def page(self) -> bytes:
        return generate_latest(self._registry)


class RequestMetrics:
    """Of all requests, and of each tenant's own. `surfaces`: where there are others beside this process (None: there are none)."""

    def __init__(self, surfaces: Surfaces | None = None) -> None:
        self._all, self._by_tenant = RequestCounts(), defaultdict[str, RequestCounts](RequestCounts)
        self._surfaces = surfaces
        self.num_ended = 0
        self._registry = CollectorRegistry()
        self._running = Gauge("triptych_http_requests_running", "Requests being answered.", registry=self._registry)
        memory = Gauge("triptych_http_memory_bytes", "Resident memory of the HTTP process.", registry=self._registry)
        memory.set_function(lambda: psutil.Process().memory_info().rss)
        self._settings_refused = Gauge(
            "triptych_http_settings_refused",
            "Whether the newest settings, or the newest keys in files, could not be taken: the ones before are in use.",
            registry=self._registry,
        )
        tasks = Gauge("triptych_http_event_loop_tasks", "What runs or waits on its event loop.", registry=self._registry)
        tasks.set_function(_num_tasks)

    def begin(self) -> None:
        self._running.inc()

    def end(self, answered: Answered, tenant: str | None) -> None:
        """`tenant` None: nobody knows who asked."""
        self._running.dec()
        self.num_ended += 1
        self._all.add(answered)
        if tenant is not None:
            self._by_tenant[tenant].add(answered)

    def used(self, tenant: str, spent: Spent, quota: str = "") -> None:
        """`quota`: which refused it."""
        self._all.usage.add(tenant, spent, quota)
        self._by_tenant[tenant].usage.add(tenant, spent, quota)

    def settings_refused(self, is_so: bool) -> None:
        self._settings_refused.set(is_so)

    def counts(self) -> Counts:
        """Of this process."""
        return [*self._all.counts(), *self._registry.collect()]

    def own_page(self, tenant: str) -> bytes:
        """What a tenant has asked, as text, and nothing of what others have."""
        return self._by_tenant[tenant].page()

    async def page(self, service: Service, writing: ThreadPool) -> bytes:
        """Everything as text, which is made on a thread of `writing`. Where nobody can tell of the stages, `triptych_stage_metrics_up` is
        0 and the rest is there; where nobody can tell of other replicas, this one's counts are."""
        try:
            stages, up = await service.stage_metrics(), 1
        except TriptychError:
            stages, up = [], 0
        counts = await self._of_all(self.counts())
        return await writing.run(_page, counts, stages, up)

    async def _of_all(self, own: Counts) -> Iterable[Metric]:
        if self._surfaces is None:
            return own
        try:
            return _by_replica(await self._surfaces.exchange(own))
        except TriptychError:
            return _by_replica({self._surfaces.replica: own})


def _by_replica(counts: Mapping[str, Counts]) -> list[Metric]:
    """One family of each name, a replica's series with its name."""
    families: dict[str, Metric] = {}
    for replica, told in sorted(counts.items()):
        for one in told:
            family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            family.samples += [_of(replica, sample) for sample in one.samples]
    return list(families.values())


def _of(replica: str, sample: Sample) -> Sample:
    return sample._replace(labels={**sample.labels, "replica": replica})


def _page(counts: Iterable[Metric], stages: Sequence[StageMetrics], up: int) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(counts, stages, up))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, counts: Iterable[Metric], stages: Sequence[StageMetrics], up: int) -> None:
        self._counts, self._stages, self._up = counts, stages, up

    def collect(self) -> Iterable[Metric]:
        yield from self._counts
        yield GaugeMetricFamily("triptych_stage_metrics_up", "Whether the stages' counters could be read.", value=self._up)
        yield from stage_families(self._stages)


def _num_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # there is no event loop here
        return 0
