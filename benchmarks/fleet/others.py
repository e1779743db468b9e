"""Others' deciders at the simulator's seams: the choosers of `baselines.py` as routers, and Ray Serve's default autoscaling.

Decides nothing of its own. Serve's arithmetic and delays are Serve's functions, called with virtual time.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.fleet.baselines import (
    LEAST_OUTSTANDING,
    ROUND_ROBIN,
    TWO_CHOICES,
    Chooser,
    LeastOutstanding,
    RoundRobin,
    TwoChoices,
)
from pipelines.planning.scaling.pool_state import PoolState
from pipelines.planning.simulation.deciders import Place, Router
from pipelines.routing.admission import Refusal
from pipelines.routing.candidate import Wanted
from stages.contract.news import StageNews
from stages.contract.work import Work


class Choosing:
    """One chooser a stage, over the replicas of all its pools as one set. `asks`: knows how many requests each replica has in hand from all
    callers, as Serve's router does by asking; else from this caller only."""

    def __init__(self, make: Callable[[], Chooser], *, asks: bool) -> None:
        self._make, self._asks = make, asks
        self._pools: dict[str, dict[str, Sequence[Place]]] = defaultdict(dict)  # by stage
        self._choosers: dict[str, Chooser] = {}
        self._own: dict[tuple[str, int], int] = defaultdict(int)  # by stage and place

    def there_are(self, pool: str, stages: Sequence[str], places: Sequence[Place], now: float) -> None:
        for stage in stages:
            self._pools[stage][pool] = places

    def choose(self, stage: str, wanted: Wanted, now: float) -> Place | None:
        places = [place for pool in self._pools[stage].values() for place in pool]
        if not places:
            return None
        chooser = self._choosers.setdefault(stage, self._make())
        ongoing = [place.ongoing if self._asks else self._own[stage, id(place)] for place in places]
        at = chooser.choose(ongoing)
        return places[at] if at is not None and not places[at].is_full else None

    def sent(self, stage: str, place: Place, work: Work | None, now: float) -> object:
        self._own[stage, id(place)] += 1
        return stage, id(place)

    def ended(self, token: object) -> None:
        assert isinstance(token, tuple)
        self._own[token] -= 1

    def heard(self, pool: str, news: StageNews, now: float) -> None: ...

    def refusal(self, visits: Sequence[tuple[str, Wanted]], left_s: float, priority: int, now: float) -> Refusal | None:
        return None


def router(side: str, seed: int) -> Router:
    if side == ROUND_ROBIN:
        return Choosing(RoundRobin, asks=False)
    if side == TWO_CHOICES:
        return Choosing(lambda: TwoChoices(2**30, seed=seed), asks=True)  # the cap is the places' own
    assert side == LEAST_OUTSTANDING, side
    return Choosing(lambda: LeastOutstanding(seed=seed), asks=False)


class ServesScaling:
    """Serve's default: ongoing requests over `target_ongoing_requests`, averaged over a look-back, upscaled after 30 seconds and downscaled
    after 600 of the same wish. Each deployment by itself, within its own bounds. `ongoing`: by pool, what a replica should have in hand
    (Serve's own 2 is a wish for no batches at all)."""

    period_s = 1.0

    def __init__(self, ongoing: Mapping[str, float]) -> None:
        from ray.serve.config import AutoscalingConfig

        self._ongoing = ongoing
        self._config = AutoscalingConfig(min_replicas=1, max_replicas=1_000_000)
        self._seen: dict[str, deque[tuple[float, float]]] = defaultdict(deque)
        self._states: dict[str, dict[str, Any]] = defaultdict(dict)
        self._targets: dict[str, int] = {}

    def targets(self, pools: Sequence[PoolState], ongoing: Mapping[str, float], now: float) -> Mapping[str, int]:
        for pool in pools:
            self._targets[pool.pool] = self._target(pool, ongoing.get(pool.pool, 0.0), now)
        return dict(self._targets)

    def _target(self, pool: PoolState, ongoing: float, now: float) -> int:
        from ray.serve.autoscaling_policy import _apply_delay_logic, _apply_scaling_factors

        seen = self._seen[pool.pool]
        seen.append((now, ongoing))
        while seen[0][0] < now - self._config.look_back_period_s:
            seen.popleft()
        mean = sum(count for _, count in seen) / len(seen)
        current = self._targets.get(pool.pool, pool.running + pool.starting)
        wanted = _apply_scaling_factors(mean / self._ongoing[pool.pool], max(1, pool.running), self._config)
        bounded = max(pool.min_replicas, min(pool.max_replicas, wanted))
        target, state = _apply_delay_logic(bounded, current, self._config, self._states[pool.pool], _now=now)
        self._states[pool.pool] = state
        return int(target)
