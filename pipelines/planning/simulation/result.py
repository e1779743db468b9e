"""What a simulation has found: of every request when it came, began to be answered and ended, and how; of every pool what its devices did.

Decides the figures that are drawn from that. Pure.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pipelines.planning.simulation.engines.devices import Done
from pipelines.planning.simulation.outcome import Outcome


@dataclass(slots=True)
class Requests:
    """One line each, in the order that they ended in. `at`, `first`, `end`: seconds since the beginning (infinite: never); `kind`, `pool`:
    places in `kinds` and `pools` (of its first call; -1: none); `in_time`: done, and within its objective."""

    kinds: list[str] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    at: "array[float]" = field(default_factory=lambda: array("d"))
    first: "array[float]" = field(default_factory=lambda: array("d"))
    end: "array[float]" = field(default_factory=lambda: array("d"))
    kind: "array[int]" = field(default_factory=lambda: array("h"))
    pool: "array[int]" = field(default_factory=lambda: array("h"))
    outcome: "array[int]" = field(default_factory=lambda: array("b"))
    in_time: "array[int]" = field(default_factory=lambda: array("b"))

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of requests that came within the window. Latencies in seconds, of those that were done; rates a second; `goodput`: done within their
    objectives."""

    num: int
    num_done: int
    num_refused: int
    num_late: int
    num_lost: int
    rate: float
    goodput: float
    p50_s: float
    p95_s: float
    p99_s: float
    mean_s: float
    first_p50_s: float
    first_p99_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A pool has so many replicas that serve, and so many that have been asked for, from then on."""

    at_s: float
    pool: str
    running: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Result:
    """`devices`: what each pool's did, within the window, `device_of` its type. `changes`: of pools' sizes. `ended_s`: when the last
    request had ended."""

    requests: Requests
    window: tuple[float, float]
    devices: Mapping[str, Done]
    device_of: Mapping[str, str]
    changes: Sequence[Change]
    ended_s: float

    @property
    def window_s(self) -> float:
        return min(self.window[1], self.ended_s) - self.window[0]

    def figures(self, kind: str | None = None) -> Figures:
        """Of one class, or of all."""
        of, (since, until) = self.requests, self.window
        wanted = None if kind is None else of.kinds.index(kind)
        mine = [n for n in range(len(of)) if since <= of.at[n] < until and (wanted is None or of.kind[n] == wanted)]
        done = [n for n in mine if of.outcome[n] == Outcome.DONE]
        took = sorted(of.end[n] - of.at[n] for n in done)
        first = sorted(of.first[n] - of.at[n] for n in done)
        counts = [sum(of.outcome[n] == outcome for n in mine) for outcome in Outcome]
        ended = sum(
            since <= of.end[n] < until and of.outcome[n] == Outcome.DONE and (wanted is None or of.kind[n] == wanted)
            for n in range(len(of))
        )
        seconds = self.window_s if self.window_s > 0 else math.nan
        return Figures(
            num=len(mine),
            num_done=counts[Outcome.DONE],
            num_refused=counts[Outcome.REFUSED],
            num_late=counts[Outcome.LATE],
            num_lost=counts[Outcome.LOST],
            rate=ended / seconds,
            goodput=sum(of.in_time[n] for n in mine) / seconds,
            p50_s=quantile(took, 0.5),
            p95_s=quantile(took, 0.95),
            p99_s=quantile(took, 0.99),
            mean_s=math.fsum(took) / len(took) if took else math.nan,
            first_p50_s=quantile(first, 0.5),
            first_p99_s=quantile(first, 0.99),
        )

    def by_device(self) -> Mapping[str, Done]:
        """What all devices of a type did together."""
        found: dict[str, Done] = {}
        for pool, done in self.devices.items():
            found.setdefault(self.device_of[pool], Done()).add(done)
        return found

    def as_json(self) -> dict[str, object]:
        """Without the requests, one by one."""
        return {
            "window_s": self.window_s,
            "all": asdict(self.figures()),
            "kinds": {kind: asdict(self.figures(kind)) for kind in self.requests.kinds},
            "pools": {pool: asdict(done) | {"device": self.device_of[pool]} for pool, done in self.devices.items()},
            "devices": {
                device: asdict(done) | {"utilisation": done.utilisation, "full_batch_part": done.full_part}
                for device, done in self.by_device().items()
            },
            "num_changes": len(self.changes),
        }


def quantile(ordered: Sequence[float], part: float) -> float:
    """The lowest that at least such a part is not above. Not a number, where there is nothing."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.nan
