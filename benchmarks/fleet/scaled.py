"""Who decides how many replicas there are, of a chat and of a painter that share six L4: under a constant load, by day and by night, and
when a burst of paintings comes. Knows no report."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.fleet.cases import each
from benchmarks.fleet.devices import BY_NAME, DECODER, DENOISER, FLEET, LLM, TEXT
from benchmarks.fleet.others import ServesScaling
from benchmarks.fleet.plans import stages
from benchmarks.fleet.simulated import OURS, fleet_of, router_of
from benchmarks.fleet.workloads import CHAT, PAINTING, Taste, requests
from pipelines.planning.scaling.pool_state import Budget
from pipelines.planning.simulation.arrivals import day_and_night, poisson, ramp
from pipelines.planning.simulation.deciders import Scaler
from pipelines.planning.simulation.fleet import Hosted, Pool
from pipelines.planning.simulation.own import OwnScaler
from pipelines.planning.simulation.result import Figures, Result
from pipelines.planning.simulation.simulation import simulate
from pipelines.planning.simulation.workload import Request

SERVES = "Serve's default"
SCALERS = (OURS, SERVES)
DEVICES, DEVICE = 6, "L4"
START_UP_S = 30.0
SETTLED_S = 600.0  # what was started with is somebody's guess
CHATS, PAINTINGS = Taste(paintings=0.0, with_image=0.0), Taste(paintings=1.0)
CHATS_PER_S, PAINTINGS_PER_S = 5.0, 0.09  # that one L4 does with three quarters of its batches full, about
PART_FULL = 0.75  # of a batch: what Serve is told to aim at
CHATS_IN_ALL, PAINTINGS_IN_ALL = DEVICES * CHATS_PER_S, DEVICES * PAINTINGS_PER_S
Asked = Callable[[float], Iterable[Request]]


@dataclass(frozen=True, slots=True)
class Scaled:
    """`seconds`: of the window that is counted. `num_changes`: of what was wanted, once settled; `device_hours`: that were paid for;
    `most_devices`: wanted at once."""

    side: str
    load: str
    seconds: float
    chats: Figures
    paintings: Figures
    num_changes: int
    device_hours: float
    most_devices: int


def scaled(hours: float, scalers: Sequence[str] = SCALERS, jobs: int = 1) -> Iterator[Scaled]:
    return each(
        [
            (f"scaling: {load}, {side}", partial(_scaled, side, load, asked, hours))
            for load, asked in LOADS.items()
            for side in scalers
        ],
        jobs,
    )


def _scaled(side: str, load: str, asked: Asked, hours: float) -> Scaled:
    fleet, window = fleet_of(stages(), _pools(side), OURS), (SETTLED_S, SETTLED_S + 3600 * hours)
    return _one(side, load, simulate(fleet, asked(hours), router_of(OURS), scaler=_scaler(side), window=window))


def _pools(side: str) -> tuple[Pool, ...]:
    """Both begin with a third of the devices. Serve's deployments don't know of each other: each gets half, at most."""
    chat, painter = (
        Pool(
            name,
            DEVICE,
            tuple(Hosted(stage, BY_NAME[stage].speed(FLEET[0])) for stage in hosted),
            DEVICES // 3,
            start_up_s=START_UP_S,
        )
        for name, hosted in ((CHAT, (LLM,)), (PAINTING, (TEXT, DENOISER, DECODER)))
    )
    most = DEVICES // 2 if side == SERVES else DEVICES - 1
    return replace(chat, max_replicas=most), replace(painter, max_replicas=most)


def _scaler(side: str) -> Scaler:
    if side == OURS:
        return OwnScaler(Budget(devices={DEVICE: float(DEVICES)}))
    return ServesScaling({CHAT: PART_FULL * BY_NAME[LLM].max_rows, PAINTING: PART_FULL * BY_NAME[DENOISER].max_rows})


def constant(hours: float) -> Iterable[Request]:
    return _both(poisson(0.35 * CHATS_IN_ALL, 1), poisson(0.35 * PAINTINGS_IN_ALL, 2), SETTLED_S + 3600 * hours)


def turns(hours: float) -> Iterable[Request]:
    """Chats by day, paintings by night."""
    seconds = SETTLED_S + 3600 * hours
    nights = day_and_night(0.05 * PAINTINGS_IN_ALL, 0.7 * PAINTINGS_IN_ALL, seconds, 4)
    night = (at - seconds / 2 for at in nights if at >= seconds / 2)
    return _both(day_and_night(0.1 * CHATS_IN_ALL, 0.7 * CHATS_IN_ALL, seconds, 3), night, seconds)


def burst(hours: float) -> Iterable[Request]:
    third = 1200 * hours
    pieces = [(SETTLED_S + third, 0.1), (third, 0.6), (third, 0.1)]
    paintings = ramp([(seconds, part * PAINTINGS_IN_ALL) for seconds, part in pieces], 6)
    return _both(poisson(0.25 * CHATS_IN_ALL, 5), paintings, SETTLED_S + 3600 * hours)


LOADS: dict[str, Asked] = {"constant": constant, "day and night": turns, "burst of paintings": burst}
"""What is asked for so many hours, after a while to settle."""


def _both(chats: Iterable[float], paintings: Iterable[float], seconds: float) -> Iterable[Request]:
    asked = (
        requests(itertools.takewhile(lambda at: at < seconds, arrivals), taste, deadline_s=1.0)
        for arrivals, taste in ((chats, CHATS), (paintings, PAINTINGS))
    )
    return heapq.merge(*asked, key=lambda request: request.at_s)


def _one(side: str, load: str, result: Result) -> Scaled:
    wanted: dict[str, int] = {}
    num_changes = most = 0
    for change in result.changes:
        if change.wanted != wanted.get(change.pool, change.wanted) and change.at_s >= SETTLED_S:
            num_changes += 1
        wanted[change.pool] = change.wanted
        most = max(most, sum(wanted.values()))
    hours = sum(done.alive_s for done in result.devices.values()) / 3600
    return Scaled(side, load, result.window_s, result.figures(CHAT), result.figures(PAINTING), num_changes, hours, most)
