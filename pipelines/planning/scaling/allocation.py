"""Numbers of replicas, for what stages need, under the budget.

Decides which pool grows: the one that does most of what is missing for its cost. And who gets what where there is not enough: whoever
has the smallest part of the budget comes first, by the bound that it has most of (dominant resource fairness; Ghodsi et al., NSDI 2011),
and gets no more than it needs. Stages that items go through one after another are one in this, and share what they have so that each
does an equal part of what it should: a stage that outruns the next one helps nobody. Pure; knows no time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.planning.scaling.capacity import Offer

FAIRER = 1.1
"""Within a group a replica goes from one stage to another only where that leaves the giver so many times better off: what they need is
measured, and wavers. Shares of the budget don't: there it is enough that the giver has no less afterwards, which can't go to and fro."""
_EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one pool's replicas."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Group:
    """Stages that items go through one after another. `weight`: how many parts of the budget it gets where others get one."""

    stages: frozenset[str]
    weight: float = 1.0


@dataclass(slots=True)
class Allocation:
    """`counts`: replicas by pool, which the methods change; `limits`: of the budget, by its bound."""

    offers: Mapping[str, Offer]
    bounds: Mapping[str, Bounds]
    groups: Sequence[Group]
    limits: Mapping[str, float]
    counts: dict[str, int]
    _capacity: dict[str, float] = field(default_factory=dict)
    _used: dict[str, float] = field(default_factory=dict)
    _taken: dict[Group, dict[str, float]] = field(default_factory=dict)
    _worth: dict[str, float] = field(default_factory=dict)
    _group: dict[str, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._group = {stage: group for group in self.groups for stage in group.stages}
        self.offer(self.offers)

    def offer(self, offers: Mapping[str, Offer]) -> None:
        """From now on the replicas of the same pools add this: the stages of one process share its device otherwise."""
        self.offers, self._worth, self._capacity = offers, {}, {}
        for offer in offers.values():
            for stage, added in offer.adds.items():
                if added > 0:
                    self._worth[stage] = min(self._worth.get(stage, float("inf")), offer.cost / added)
        self._used = dict.fromkeys(self.limits, 0.0)
        self._taken = {group: dict.fromkeys(self.limits, 0.0) for group in self.groups}
        counts, self.counts = self.counts, dict.fromkeys(offers, 0)
        for pool, count in counts.items():
            self._change(pool, count)

    def capacity(self, stage: str) -> float:
        return self._capacity.get(stage, 0.0)

    def attainable(self, stage: str) -> float:
        """The capacity that it may come to, in the room that the budget has now."""
        total = 0.0
        for pool in self._hosting(stage):
            offer, more = self.offers[pool], self.bounds[pool].most - self.counts[pool]
            room = min(
                ((self.limits[bound] - self._used[bound]) / taken for bound, taken in offer.takes.items()), default=more
            )
            total += offer.adds[stage] * (self.counts[pool] + max(0, min(more, int(room + _EPSILON))))
        return total

    def keep_minimums(self) -> None:
        """As far as the budget has room, the ones with the smallest part of theirs first."""
        while short := [
            pool for pool in self.offers if self.counts[pool] < self.bounds[pool].least and not self._lacking(pool)
        ]:
            self._change(min(short, key=lambda pool: self.counts[pool] / self.bounds[pool].least), 1)

    def shed(self, wanted: Mapping[str, float]) -> None:
        """Until the budget is kept: from who is best off; of what pools keep at least, only where nothing else is left. `wanted`: the
        capacity that each stage needs."""
        while over := {bound for bound, limit in self.limits.items() if self._used[bound] > limit + _EPSILON}:
            taking = [pool for pool in self.offers if self.counts[pool] > 0 and over & set(self.offers[pool].takes)]
            if not taking:
                return
            spare = [pool for pool in taking if self.counts[pool] > self.bounds[pool].least]
            self._change(max(spare or taking, key=lambda pool: self._left_with(pool, wanted)), -1)

    def raise_to(self, needs: Mapping[str, float]) -> set[str]:
        """Gives every stage the capacity that it needs, as far as there is. Returns the stages that don't get it."""
        starved: set[str] = set()
        while short := [stage for stage in needs if stage not in starved and self._is_short(stage, needs)]:
            stage = min(short, key=lambda stage: (self._share(self._group[stage]), self._part(stage, needs)))
            may = [pool for pool in self._hosting(stage) if self._may_grow(pool) and not self._lacking(pool)]
            if may:
                self._change(max(may, key=lambda pool: self._value(pool, self._missing(needs))), 1)
            else:
                starved.add(stage)
        return starved

    def take_for(self, starved: set[str], needs: Mapping[str, float], wanted: Mapping[str, float]) -> None:
        """Where a stage lacks room in the budget, from those that are better off. `wanted`: of all stages."""
        for stage in sorted(starved, key=lambda stage: (self._share(self._group[stage]), self._part(stage, wanted), stage)):
            while self._is_short(stage, needs) and (move := self._cheapest_move(stage, wanted)) is not None:
                pool, givers = move
                for giver in givers:
                    self._change(giver, -1)
                self._change(pool, 1)

    def lower_to(self, least: Mapping[str, float], running: Mapping[str, int]) -> None:
        """Lets go of replicas that nobody needs: what each stage must keep is covered anew by replicas that run, and what isn't needed for
        that goes. `least`: capacity by stage; pools of stages that aren't named keep what they have."""
        before = {pool: self.counts[pool] for pool in self.offers if set(self.offers[pool].adds) <= set(least)}
        for pool, count in before.items():
            self._change(pool, min(self.bounds[pool].least, count) - count)
        kept: dict[str, float] = dict(least)
        while short := [stage for stage in kept if self._is_short(stage, kept)]:
            stage = min(short, key=lambda stage: self._part(stage, kept))
            spare = [
                pool
                for pool in self._hosting(stage)
                if pool in before and self.counts[pool] < min(before[pool], running[pool])
            ]
            if spare:
                self._change(max(spare, key=lambda pool: self._value(pool, self._missing(kept))), 1)
            else:
                del kept[stage]
                self._restore(stage, before)

    def _restore(self, stage: str, before: Mapping[str, int]) -> None:
        """What runs doesn't do for it, so it keeps what it has."""
        for pool in self._hosting(stage):
            if pool in before:
                self._change(pool, before[pool] - self.counts[pool])

    def _cheapest_move(self, stage: str, wanted: Mapping[str, float]) -> tuple[str, list[str]] | None:
        """A pool of the stage that may grow, and the replicas that go for it: as few as will do."""
        found = [
            (len(givers), -self._value(pool, self._missing(wanted)), pool, givers)
            for pool in self._hosting(stage)
            if self._may_grow(pool) and (givers := self._givers(pool, stage, wanted)) is not None
        ]
        return min(found)[2:] if found else None

    def _givers(self, pool: str, stage: str, wanted: Mapping[str, float]) -> list[str] | None:
        """Whose replicas make room for one of the pool; None where somebody would end up worse off than the stage then is."""
        givers: list[str] = []
        self._change(pool, 1)
        share, part = self._share(self._group[stage]), self._part(stage, wanted)
        self._change(pool, -1)
        try:
            while lacking := self._lacking(pool):
                willing = [
                    other
                    for other in self.offers
                    if lacking & set(self.offers[other].takes)
                    and stage not in self.offers[other].adds
                    and self.counts[other] > self.bounds[other].least
                    and self._can_spare(other, stage, share, part, wanted)
                ]
                if not willing:
                    return None
                givers.append(max(willing, key=lambda other: self._left_with(other, wanted)))
                self._change(givers[-1], -1)
            return givers
        finally:
            for giver in givers:
                self._change(giver, 1)

    def _can_spare(self, pool: str, stage: str, share: float, part: float, wanted: Mapping[str, float]) -> bool:
        """Whether its stages have what they need without one of its replicas, or still no less of the budget than `stage` then has."""
        is_spare, own_share, own_part = self._left_with(pool, wanted)
        is_near = all(self._group[other] is self._group[stage] for other in self.offers[pool].adds)
        return is_spare or (own_part >= FAIRER * part if is_near else own_share >= share - _EPSILON)

    def _left_with(self, pool: str, wanted: Mapping[str, float]) -> tuple[bool, float, float]:
        """Without one of its replicas: whether each of its stages has all that it needs, the smallest share of the budget of those that
        they belong to, and the smallest part of what they need."""
        self._change(pool, -1)
        stages = self.offers[pool].adds
        part = min((self._part(stage, wanted) for stage in stages), default=float("inf"))
        share = min((self._share(self._group[stage]) for stage in stages), default=float("inf"))
        self._change(pool, 1)
        return part >= 1, share, part

    def _share(self, group: Group) -> float:
        """Of the bound of the budget that it has most of."""
        taken = self._taken[group]
        return max((taken[bound] / limit for bound, limit in self.limits.items() if limit > 0), default=0.0) / group.weight

    def _part(self, stage: str, wanted: Mapping[str, float]) -> float:
        needed = wanted.get(stage, 0.0)
        return self.capacity(stage) / needed if needed > 0 else float("inf")

    def _is_short(self, stage: str, wanted: Mapping[str, float]) -> bool:
        return self.capacity(stage) < wanted[stage] * (1 - _EPSILON)

    def _missing(self, wanted: Mapping[str, float]) -> Mapping[str, float]:
        return {stage: max(0.0, needed - self.capacity(stage)) for stage, needed in wanted.items()}

    def _value(self, pool: str, missing: Mapping[str, float]) -> float:
        """How much of what is missing one more replica does, for its cost. What it does for unlike stages is summed by what that costs
        where it is cheapest."""
        offer = self.offers[pool]
        done = [min(added, missing.get(stage, 0.0)) * self._worth.get(stage, 0.0) for stage, added in offer.adds.items()]
        return sum(done) / offer.cost

    def _may_grow(self, pool: str) -> bool:
        return self.counts[pool] < self.bounds[pool].most

    def _hosting(self, stage: str) -> Iterator[str]:
        """Pools that do something for it."""
        return (pool for pool, offer in self.offers.items() if offer.adds.get(stage, 0.0) > 0)

    def _lacking(self, pool: str) -> set[str]:
        """The bounds of the budget that have no room for one more."""
        takes = self.offers[pool].takes.items()
        return {bound for bound, taken in takes if self._used[bound] + taken > self.limits[bound] + _EPSILON}

    def _change(self, pool: str, by: int) -> None:
        self.counts[pool] += by
        offer = self.offers[pool]
        for stage, added in offer.adds.items():
            self._capacity[stage] = self._capacity.get(stage, 0.0) + by * added
        groups = {self._group[stage] for stage in offer.adds}
        for bound, taken in offer.takes.items():
            self._used[bound] += by * taken
            for group in groups:
                self._taken[group][bound] += by * taken / len(groups)
