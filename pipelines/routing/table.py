"""What this process knows of the replicas that it may send items to: who is there, what each last told, what was sent there since.

Decides whom to look at where there are many: a sample, whoever holds something of the item, and its name's owners. Knows no cluster: who
is there is told by `pool_router.py`, what they say by whoever gets their replies. May be used on any thread; time is handed in.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice

from pipelines.routing.candidate import Candidate, Ranked, Ranking, Wanted
from pipelines.routing.holding import Held, Holders
from pipelines.routing.making import Making
from pipelines.routing.ownership import Owners, seed_of
from pipelines.routing.ranking import rank
from stages.contract.news import NO_HINTS, Hints, StageNews
from stages.contract.work import NO_WORK, Work

ON_ITS_WAY_S = 0.02
"""What was sent so shortly before news came, these did not tell of."""
STILL_SO_S = 12.0
"""For so long who said that it has nothing to do is believed to have told it again, as often as that arrives: until replicas do tell it
again, unchanged (`pipelines/cluster/replica.py`)."""
MAX_HOLDERS = 4
NUM_OWNERS = 2
NEIGHBOURS = 4
"""Of a sample so many stand together in an order that is drawn once: fewer draws, and as good as one for each."""


_Key = tuple[str, str]  # pool and replica


def pool_key(application: str, deployment: str) -> str:
    """What a pool is called here: two applications may have deployments of the same name."""
    return f"{application}#{deployment}"


@dataclass(slots=True, eq=False)
class Sent:
    """One item on its way to a replica, or there."""

    stage: str
    pool: str
    replica: str
    work: Work
    at: float
    name: int | None = None
    tenant: int = 0
    chain: tuple[int, ...] = ()  # beginnings that others may wait for, and copy
    begun: tuple[Candidate, float] | None = None  # where, and since when
    counts: bool = True  # news has not told of it yet


@dataclass(frozen=True, slots=True)
class Demand:
    """What this process has sent to a stage of a pool and has no answer to. `unplaced` of it, `num_unplaced` items, is with no replica
    yet: there is none, or all are full. Items that nobody knows the work of count as no work."""

    num_items: int = 0
    work: Work = NO_WORK
    num_unplaced: int = 0
    unplaced: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class Member:
    """A replica that is there. `max_ongoing`: of requests."""

    replica: str
    max_ongoing: int


@dataclass(slots=True)
class _Stage:
    """Of one stage. `sent`: in order, to each replica; `open`: all that has no answer; `rosters`: by the pools that are asked for."""

    known: dict[_Key, Candidate] = field(default_factory=dict)
    sent: dict[_Key, deque[Sent]] = field(default_factory=dict)
    open: dict[int, Sent] = field(default_factory=dict)
    rosters: dict[tuple[str, ...], "_Roster"] = field(default_factory=dict)
    holders: Holders = field(default_factory=Holders)
    making: Making = field(default_factory=Making)
    usual: Work | None = None


@dataclass(frozen=True, slots=True)
class _Roster:
    """Who is there of some pools. `owners`: of names, by their places; `asleep`: those of the pools that have nobody."""

    candidates: list[Candidate]
    there: frozenset[Candidate]
    owners: Owners
    asleep: tuple[str, ...]


@dataclass(slots=True)
class _Pool:
    members: dict[str, Member] = field(default_factory=dict)
    ongoing: Callable[[str], int | None] = lambda replica: None
    starts_in_s: float | None = None
    asleep_at: float | None = None  # since when somebody waits for it to have a replica

    def is_full(self, replica: str) -> bool:
        member, ongoing = self.members.get(replica), self.ongoing(replica)
        return member is not None and ongoing is not None and ongoing >= member.max_ongoing


class ReplicaTable:
    """`draw`: numbers from 0 to 1, as from `random.random`."""

    def __init__(self, draw: Callable[[], float], settings: Ranking = Ranking()) -> None:
        self._draw, self._settings = draw, settings
        self._lock = threading.RLock()
        self._stages: dict[str, _Stage] = {}
        self._pools: dict[str, _Pool] = {}
        self._at: dict[_Key, dict[str, Candidate]] = {}  # by stage, of each replica that has told of several

    def rank_by(self, settings: Ranking) -> None:
        """From now on."""
        with self._lock:
            self._settings = settings

    # ---- who is there ----

    def is_known(self, pool: str) -> bool:
        """Whether anybody has said who is in it."""
        with self._lock:
            return pool in self._pools

    def num_members(self, pools: Sequence[str]) -> int:
        """How many replicas are known to be in them."""
        with self._lock:
            return sum(len(self._pools[pool].members) for pool in pools if pool in self._pools)

    def members(self, pool: str, members: Sequence[Member], ongoing: Callable[[str], int | None], now: float) -> None:
        """Who is in a pool from now on. `ongoing`: how many requests a replica has in hand, as far as that is known."""
        with self._lock:
            if pool not in self._pools:
                self._pools[pool] = _Pool()
                self._forget_rosters(pool)
            known = self._pools[pool]
            if members and known.asleep_at is not None:
                known.starts_in_s, known.asleep_at = now - known.asleep_at, None
            was = known.members
            gone = was.keys() - {member.replica for member in members}
            known.members = {member.replica: member for member in members}
            known.ongoing = ongoing
            if known.members.keys() != was.keys():
                self._forget_rosters(pool)
            for replica in gone:
                self._at.pop((pool, replica), None)
                for stage in self._stages.values():
                    _forget(stage, (pool, replica))

    def _forget_rosters(self, pool: str) -> None:
        for stage in self._stages.values():
            for pools in [pools for pools in stage.rosters if pool in pools]:
                del stage.rosters[pools]

    def heard(self, pool: str, news: StageNews, now: float, *, delay_s: float = ON_ITS_WAY_S) -> None:
        """What a replica told; older than what is known, or of one that is gone, it is passed over. `delay_s`: how long it may have been on
        its way."""
        with self._lock:
            if pool in self._pools and news.replica not in self._pools[pool].members:
                return
            stage, key = self._stage(news.stage), (pool, news.replica)
            candidate = _candidate(stage, key)
            if candidate.news is not None and candidate.news.number >= news.number:
                if candidate.news.number == news.number and not news.num_items and now - candidate.came_at <= STILL_SO_S:
                    candidate.heard_at = now  # it is still so; who has work, does it meanwhile
                return
            before, candidate.news, candidate.came_at = candidate.news, news, now
            stage.holders.holds(candidate, before.holds if before is not None else (), news.holds)
            if before is None and news.is_shared:
                self._share(key, candidate)
            candidate.heard_at = max(candidate.heard_at, now - delay_s)
            candidate.changed()
            for sent in _told_of(stage.sent.get(key), news.replica, now - delay_s):
                self._uncount(stage, sent)
            if news.num_items and news.outstanding.steps > 0:
                stage.usual = news.outstanding * (1 / news.num_items)

    def _share(self, key: _Key, candidate: Candidate) -> None:
        """With the other stages of its replica that compute on the same device."""
        assert candidate.news is not None
        here = self._at.setdefault(key, {})
        here[candidate.news.stage] = candidate
        for one in here.values():
            one.others = tuple(other for other in here.values() if other is not one and _are_together(one, other))

    def _stage(self, name: str) -> _Stage:
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = _Stage()
        return stage

    # ---- what was sent ----

    def sent(
        self,
        stage: str,
        pool: str,
        replica: str,
        work: Work | None,
        now: float,
        *,
        name: int | None = None,
        tenant: int = 0,
        hints: Hints = NO_HINTS,
    ) -> Sent:
        """On its way to this replica ("": the pool's router has yet to find one). To be ended with `ended`. What is being made there
        already is no more work. `hints`: of what others may begin with as it does."""
        with self._lock:
            of = self._stage(stage)
            work = NO_WORK if name is not None and of.making.at(name) == (pool, replica) else work
            chain = hints.chain if name is None and not hints.is_kept_by_name else ()
            sent = Sent(stage, pool, replica, work if work is not None else of.usual or NO_WORK, now, name, tenant, chain)
            self._join(of, sent)
            of.open[id(sent)] = sent
            asleep = self._pools.get(pool)
            if asleep is not None and not replica and not asleep.members and asleep.asleep_at is None:
                asleep.asleep_at = now
            self._count(of, sent)
            return sent

    def went(self, sent: Sent, replica: str, now: float) -> None:
        """It went to this one, whichever was chosen. Passed over where it has ended meanwhile, on another thread."""
        with self._lock:
            of = self._stages[sent.stage]
            if replica == sent.replica or id(sent) not in of.open:
                return
            if sent.counts:
                self._uncount(of, sent)
            self._leave(of, sent)
            was, waited_since = sent.replica, sent.at
            sent.replica, sent.at, sent.counts = replica, now, True
            if not was:
                self._waits_no_more(sent.pool, waited_since)
            self._join(of, sent)
            self._count(of, sent)

    def ended(self, sent: Sent) -> None:
        """Answered, failed or called off. Idempotent."""
        with self._lock:
            of = self._stages[sent.stage]
            if of.open.pop(id(sent), None) is not None:
                self._leave(of, sent)
                if not sent.replica:
                    self._waits_no_more(sent.pool, sent.at)
            if sent.counts:
                self._uncount(of, sent)

    def _join(self, of: _Stage, sent: Sent) -> None:
        """Others who want what it makes, or begin as it does, are sent where it goes."""
        of.making.join(sent.name, sent.pool, sent.replica)
        if sent.chain and sent.replica and not self._is_gone(sent.pool, sent.replica):
            sent.begun = _candidate(of, (sent.pool, sent.replica)), sent.at
            of.holders.begins(sent.begun[0], sent.chain, sent.begun[1])

    def _leave(self, of: _Stage, sent: Sent) -> None:
        of.making.leave(sent.name, sent.pool, sent.replica)
        if sent.begun is not None:
            of.holders.ends(sent.begun[0], sent.chain, sent.begun[1])
            sent.begun = None

    def _is_gone(self, pool: str, replica: str) -> bool:
        """Of whom nobody is told that it is gone, nobody forgets."""
        return pool in self._pools and replica not in self._pools[pool].members

    def _waits_no_more(self, pool: str, since: float) -> None:
        """A pool sleeps since the first who waits for it still: whoever gave up tells nothing of how long it takes to start."""
        asleep = self._pools.get(pool)
        if asleep is not None and asleep.asleep_at is not None and since <= asleep.asleep_at:
            waiting = (one for stage in self._stages.values() for one in stage.open.values() if one.pool == pool)
            asleep.asleep_at = min((max(one.at, asleep.asleep_at) for one in waiting if not one.replica), default=None)

    def demand(self) -> Mapping[tuple[str, str], Demand]:
        """By pool and stage."""
        with self._lock:
            found: dict[tuple[str, str], Demand] = {}
            for name, stage in self._stages.items():
                for sent in stage.open.values():
                    known = found.get((sent.pool, name), Demand())
                    placed = bool(sent.replica)
                    found[sent.pool, name] = Demand(
                        known.num_items + 1,
                        known.work + sent.work,
                        known.num_unplaced + (not placed),
                        known.unplaced if placed else known.unplaced + sent.work,
                    )
            return found

    def _count(self, of: _Stage, sent: Sent) -> None:
        if sent.replica and self._is_gone(sent.pool, sent.replica):
            sent.counts = False
            return
        key = (sent.pool, sent.replica)
        candidate = _candidate(of, key)
        candidate.sent += sent.work
        candidate.num_sent += 1
        candidate.sent_at = sent.at
        work, num_items = candidate.sent_of.get(sent.tenant, (NO_WORK, 0.0))
        candidate.sent_of[sent.tenant] = work + sent.work, num_items + 1
        candidate.changed()
        if sent.replica:
            of.sent.setdefault(key, deque()).append(sent)

    def _uncount(self, of: _Stage, sent: Sent) -> None:
        sent.counts = False
        candidate = of.known.get((sent.pool, sent.replica))
        if candidate is None or not candidate.num_sent:
            return
        candidate.num_sent -= 1
        candidate.sent = candidate.sent - sent.work if candidate.num_sent else NO_WORK
        work, num_items = candidate.sent_of.pop(sent.tenant, (NO_WORK, 0.0))
        if num_items > 1:
            candidate.sent_of[sent.tenant] = work - sent.work, num_items - 1
        candidate.changed()

    # ---- who is to do it ----

    def ranked(
        self, stage: str, pools: Sequence[str], wanted: Wanted, now: float, *, without: Collection[str] = ()
    ) -> Ranked | None:
        """Over the replicas of these pools, but for those named, if there are others. None: there are none that anybody knows of."""
        with self._lock:
            known = self._stage(stage)
            held, roster = known.holders.of(wanted.hints), self._roster(known, tuple(pools))
            candidates = self._candidates(known, roster, held, wanted, now)
            if wanted.work is None and known.usual is not None:
                wanted = replace(wanted, work=known.usual)
            making = self._being_made(known, roster, wanted.name)
            if making is not None and making.replica not in without:
                found = rank(wanted, [making], held, now, self._draw, self._settings)
                return replace(found, reasons=("it is being made there",)) if found is not None else None
            if without:
                candidates = [one for one in candidates if one.replica not in without] or candidates
            return rank(wanted, candidates, held, now, self._draw, self._settings)

    def _being_made(self, known: _Stage, roster: _Roster, name: int | None) -> Candidate | None:
        """Where that is, as long as there is room."""
        key = known.making.at(name) if name is not None else None
        one = known.known.get(key) if key is not None else None
        return one if one is not None and one in roster.there and not one.is_full else None

    def _roster(self, known: _Stage, pools: tuple[str, ...]) -> _Roster:
        roster = known.rosters.get(pools)
        if roster is None:
            there = {name: self._pools[name] for name in pools if name in self._pools}
            candidates = []
            for name, pool in there.items():
                for replica in pool.members:
                    candidate = _candidate(known, (name, replica))
                    candidate.fills = partial(pool.is_full, replica)
                    candidates.append(candidate)
            if len(candidates) > self._settings.max_candidates:
                candidates.sort(key=lambda one: self._draw())
            owners = Owners([candidate.seed for candidate in candidates])
            asleep = tuple(name for name, pool in there.items() if not pool.members)
            roster = known.rosters[pools] = _Roster(candidates, frozenset(candidates), owners, asleep)
        return roster

    def _candidates(self, known: _Stage, roster: _Roster, held: Held, wanted: Wanted, now: float) -> Sequence[Candidate]:
        found: Sequence[Candidate] = roster.candidates
        if len(found) > self._settings.max_candidates:
            found = self._some(known, roster, held, wanted)
        return [*found, *self._asleep(known, roster, now)] if roster.asleep else found

    def _asleep(self, known: _Stage, roster: _Roster, now: float) -> list[Candidate]:
        """Pools without replicas, as far as somebody has seen how long one takes to start; with all that waits for them. The longer one
        was waited for beyond that, the longer it is yet to take: it may never be woken."""
        found = []
        for name in roster.asleep:
            pool = self._pools[name]
            if pool.starts_in_s is not None:
                waited_s = now - pool.asleep_at if pool.asleep_at is not None else 0.0
                candidate = _candidate(known, (name, ""))
                candidate.starts_in_s = max(pool.starts_in_s, waited_s)
                found.append(candidate)
        return found

    def _some(self, known: _Stage, roster: _Roster, held: Held, wanted: Wanted) -> list[Candidate]:
        everybody = roster.candidates
        chosen = dict.fromkeys(islice((one for one in held.holders() if one in roster.there), MAX_HOLDERS))
        if wanted.name is not None:
            if (making := self._being_made(known, roster, wanted.name)) is not None:
                chosen[making] = None
            for place in roster.owners.of(wanted.name, NUM_OWNERS):
                chosen[everybody[place]] = None
        missing = max(1, self._settings.max_candidates - len(chosen))
        while missing > 0:
            begins, count = int(self._draw() * len(everybody)) % len(everybody), min(missing, NEIGHBOURS)
            some = everybody[begins : begins + count]
            chosen.update(dict.fromkeys(some + everybody[: count - len(some)]))
            missing -= NEIGHBOURS
        return list(chosen)


def _candidate(stage: _Stage, key: _Key) -> Candidate:
    candidate = stage.known.get(key)
    if candidate is None:
        candidate = stage.known[key] = Candidate(*key, seed=seed_of(key[1]))
    return candidate


def _are_together(one: Candidate, other: Candidate) -> bool:
    return one.news is not None and other.news is not None and one.news.device == other.news.device


def _told_of(sent: deque[Sent] | None, replica: str, before: float) -> list[Sent]:
    """What was sent to the replica before that."""
    told = []
    while sent and (sent[0].at <= before or not sent[0].counts or sent[0].replica != replica):
        one = sent.popleft()
        if one.counts and one.replica == replica:
            told.append(one)
    return told


def _forget(stage: _Stage, key: _Key) -> None:
    candidate = stage.known.pop(key, None)
    for sent in stage.sent.pop(key, ()):
        if sent.replica == key[1]:
            sent.counts = False
    if candidate is not None and candidate.news is not None:
        stage.holders.holds(candidate, candidate.news.holds, ())


@cache
def table_of_this_process() -> ReplicaTable:
    """What all callers of this process know together."""
    return ReplicaTable(random.Random().random)
