"""What `triptych top` shows, of one or two pages of Prometheus text. Decides what each number is made of; draws nothing and asks nobody."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

STAGE = "triptych_stage_"
TOKENS = ("time_to_first_token_seconds_count", "inter_token_seconds_count")
Key = tuple[str, str]
"""A stage and its pool."""


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """`samples`: by name. `at`: monotonic seconds."""

    samples: Mapping[str, tuple[Sample, ...]]
    at: float

    @property
    def tells_of_stages(self) -> bool:
        return "triptych_stage_metrics_up" in self.samples


@dataclass(frozen=True, slots=True)
class Surface:
    """The HTTP surface: how many requests there were, and a second."""

    num_requests: float
    requests_s: float
    refused_s: float
    failed_s: float
    running: float
    replicas: int


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage in one pool. None: nothing of the kind happened. `room`: how many items its replicas take into one step; `busy`: of its
    replicas' time, how much their devices worked for it; `hits`: of its results, or of beginnings, how much was found."""

    stage: str
    pool: str
    device: str
    replicas: int
    queued: float
    waiting_for_inputs: float
    running: float
    room: float
    batch_size: float | None
    busy: float | None
    items_s: float | None
    tokens_s: float | None
    queue_p95_s: float | None
    step_p50_s: float | None
    first_p95_s: float | None
    hits: float | None


def scrape_of(page: str, at: float) -> Scrape:
    found = defaultdict[str, list[Sample]](list)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name].append(Sample(sample.labels, sample.value))
    return Scrape({name: tuple(samples) for name, samples in found.items()}, at)


def surface_of(before: Scrape | None, now: Scrape) -> Surface:
    grown = _Growth(before, now)
    running = now.samples.get("triptych_http_requests_running", ())
    by_status = defaultdict[str, float](float)
    for labels, amount in grown.of("triptych_http_requests_total"):
        by_status[labels["status"]] += amount
    rates = {status: amount / grown.seconds if grown.seconds else 0.0 for status, amount in by_status.items()}
    return Surface(
        num_requests=sum(by_status.values()),
        requests_s=sum(rates.values()),
        refused_s=rates.get("429", 0.0),
        failed_s=sum(rate for status, rate in rates.items() if status.startswith("5")),
        running=sum(sample.value for sample in running),
        replicas=max(1, len(running)),
    )


def stage_rows(before: Scrape | None, now: Scrape) -> list[StageRow]:
    """By stage and pool, in that order."""
    grown, bounds = _Growth(before, now), now.samples.get(f"{STAGE}batch_bound_items", ())
    keys = sorted({_key(sample.labels) for sample in bounds})
    return [_row(key, grown, now) for key in keys]


def _row(key: Key, grown: "_Growth", now: Scrape) -> StageRow:
    stage, pool = key
    here = [sample for sample in now.samples[f"{STAGE}batch_bound_items"] if _key(sample.labels) == key]
    seconds = grown.seconds
    items, device_s = grown.sum(key, "items_total"), grown.sum(key, "device_seconds_total")
    tokens = sum(grown.sum(key, name) or 0.0 for name in TOKENS) if f"{STAGE}{TOKENS[0]}" in now.samples else None
    is_of_tokens = stage.endswith(".llm")
    first = "time_to_first_token_seconds" if is_of_tokens else "first_event_seconds"
    return StageRow(
        stage=stage,
        pool=pool,
        device=", ".join(sorted({sample.labels["device"] for sample in here})),
        replicas=len(here),
        queued=_gauge(now, key, "queued"),
        waiting_for_inputs=_gauge(now, key, "waiting_for_inputs"),
        running=_gauge(now, key, "running"),
        room=sum(sample.value for sample in here),
        batch_size=_ratio(grown.sum(key, "batch_size_sum"), grown.sum(key, "batch_size_count")),
        busy=device_s / seconds / len(here) if seconds and device_s is not None else None,
        items_s=items / seconds if seconds and items is not None else None,
        tokens_s=tokens / seconds if seconds and is_of_tokens and tokens is not None else None,
        queue_p95_s=grown.quantile(key, "queue_seconds", 0.95),
        step_p50_s=grown.quantile(key, "step_seconds", 0.5),
        first_p95_s=grown.quantile(key, first, 0.95),
        hits=_hits(key, grown),
    )


def _hits(key: Key, grown: "_Growth") -> float | None:
    found = missed = 0.0
    for of in ("cache", "page"):
        names = [name.removeprefix(STAGE) for name in grown.now.samples if name.startswith(f"{STAGE}{of}_hits_")]
        found += sum(grown.sum(key, name) or 0.0 for name in names)
        missed += grown.sum(key, f"{of}_misses_total") or 0.0
    return _ratio(found, found + missed)


class _Growth:
    """Of counters, from one page to the next; without an earlier page, since the start. A series that began meanwhile, or anew, counts
    from nothing. `seconds`: in which; 0: nobody knows."""

    def __init__(self, before: Scrape | None, now: Scrape) -> None:
        self.now, self.seconds = now, now.at - before.at if before is not None else 0.0
        self._before = before.samples if before is not None else {}

    def of(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        earlier = {_series(sample): sample.value for sample in self._before.get(name, ())}
        grown = []
        for sample in self.now.samples.get(name, ()):
            was = earlier.get(_series(sample), 0.0)
            grown.append((sample.labels, sample.value - was if sample.value >= was else sample.value))
        return grown

    def sum(self, key: Key, name: str) -> float | None:
        """None: nobody counts that."""
        found = [amount for labels, amount in self.of(f"{STAGE}{name}") if _key(labels) == key]
        return sum(found) if found else None

    def quantile(self, key: Key, name: str, share: float) -> float | None:
        """Within a bucket in proportion, as Prometheus has it; over the last bound: that bound."""
        counts = defaultdict[float, float](float)
        for labels, amount in self.of(f"{STAGE}{name}_bucket"):
            if _key(labels) == key:
                counts[float(labels["le"])] += amount
        bounds = sorted(counts)
        if not bounds or not counts[bounds[-1]]:
            return None
        rank, below, lower = share * counts[bounds[-1]], 0.0, 0.0
        for bound in bounds:
            if counts[bound] >= rank:
                return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (counts[bound] - below)
            below, lower = counts[bound], bound
        return lower


def _key(labels: Mapping[str, str]) -> Key:
    return labels.get("stage", ""), labels.get("pool", "")


def _series(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset(sample.labels.items())


def _gauge(now: Scrape, key: Key, name: str) -> float:
    return sum(sample.value for sample in now.samples.get(f"{STAGE}{name}", ()) if _key(sample.labels) == key)


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
