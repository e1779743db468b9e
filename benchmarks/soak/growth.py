"""Whether what processes hold grows: lines through samples, what belongs to whom, and what is still in hand when nobody asks. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipelines.commands.stage_rows import STAGE, Scrape

MIB = 2**20
IN_HAND = (
    "queued",
    "queued_tenants",
    "preparing",
    "running",
    "waiting_for_inputs",
    "outstanding_amount",
    "outstanding_steps",
    "page_bytes_in_flight",
    "page_bytes_writing",
)
"""Gauges of a stage that are 0 where nobody asks: rows and slots in use, items, and what they hold."""
OF_SURFACE = "triptych_http_requests_running"
TASKS = (f"{STAGE}event_loop_tasks", "triptych_http_event_loop_tasks")


class Owner(StrEnum):
    OURS = "ours"
    RAY = "Ray's"


RAYS = (
    "raylet",
    "gcs_server",
    "log_monitor",
    "runtime_env",
    "dashboard",
    "ServeController",
    "ProxyActor",
    "monitor.py",
    "IDLE",
)
"""Words in the command lines of Ray's and Serve's own processes."""
OURS = {
    "fork_server": "fork server",
    "valkey-server": "Redis server",
    "redis-server": "Redis server",
    "pipelines.cli": "triptych serve",
}
REPLICA = "ServeReplica:"


def whose(command: str) -> tuple[Owner, str]:
    """Whose process it is, and what it is called: a replica by its deployment."""
    if REPLICA in command:
        return Owner.OURS, command.split(REPLICA, 1)[1].split()[0].split(":")[-1].partition(".")[0]
    for word in RAYS:
        if word in command:
            return Owner.RAY, word
    for word, name in OURS.items():
        if word in command:
            return Owner.OURS, name
    return Owner.RAY, "other worker"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at a moment. Seconds since the load began."""

    at: float
    rss_bytes: float
    num_files: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Grown:
    """A process that was there to the end. `*_a_minute`: slopes after the warm-up."""

    pid: int
    owner: Owner
    name: str
    minutes: float
    rss_mib: float
    mib_a_minute: float
    num_files: int
    files_a_minute: float
    num_threads: int
    threads_a_minute: float


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line through them, by least squares: y's unit a unit of x. 0 where there are fewer than two moments."""
    if not points:
        return 0.0
    mean_x, mean_y = (sum(point[axis] for point in points) / len(points) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def grown(pid: int, command: str, samples: Sequence[Sample], *, warm_s: float, least_s: float) -> Grown | None:
    """`samples`: of one process, in order. `warm_s`: its first seconds, which don't count. None: it was there for less than `least_s`
    beside those."""
    counted = [sample for sample in samples if sample.at >= samples[0].at + warm_s]
    if not counted or counted[-1].at - counted[0].at < least_s:
        return None
    owner, name = whose(command)
    last = counted[-1]

    def a_minute(values: Iterable[float]) -> float:
        return slope([(sample.at / 60, value) for sample, value in zip(counted, values, strict=True)])

    return Grown(
        pid,
        owner,
        name,
        minutes=(last.at - counted[0].at) / 60,
        rss_mib=last.rss_bytes / MIB,
        mib_a_minute=a_minute(sample.rss_bytes / MIB for sample in counted),
        num_files=last.num_files,
        files_a_minute=a_minute(sample.num_files for sample in counted),
        num_threads=last.num_threads,
        threads_a_minute=a_minute(sample.num_threads for sample in counted),
    )


def in_hand(scrape: Scrape) -> Mapping[str, float]:
    """What a server has in hand, by gauge, all replicas together; only what is not 0."""
    found = defaultdict[str, float](float)
    for name in (*(f"{STAGE}{gauge}" for gauge in IN_HAND), OF_SURFACE):
        for sample in scrape.samples.get(name, ()):
            found[name] += sample.value
    own = 1.0  # the scrape is a request, too
    found[OF_SURFACE] = max(0.0, found[OF_SURFACE] - own)
    return {name: value for name, value in found.items() if value}


def tasks(before: Scrape, after: Scrape) -> Mapping[str, tuple[float, float]]:
    """What runs or waits on the event loops of processes that were there both times, by replica."""
    first, last = _tasks(before), _tasks(after)
    return {replica: (first[replica], last[replica]) for replica in first if replica in last}


def _tasks(scrape: Scrape) -> Mapping[str, float]:
    samples = [sample for name in TASKS for sample in scrape.samples.get(name, ())]
    return {
        f"{sample.labels.get('pool', 'ingress')} {sample.labels.get('replica', '')}".strip(): sample.value
        for sample in samples
    }
