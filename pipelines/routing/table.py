"""What this process knows of the replicas that it may send items to: who is there, what each last told, what was sent there since.

Decides whom to look at where there are many: a sample, whoever holds something of the item, and its name's owners. Knows no cluster: who
is there is told by `pool_router.py`, what they say by whoever gets their replies. May be used on any thread; time is handed in.
"""

import random
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipelines.routing.candidate import Candidate, Ranked, Ranking, Wanted
from pipelines.routing.ownership import owners, seed_of
from pipelines.routing.ranking import rank
from stages.contract.news import Hints, StageNews
from stages.contract.work import NO_WORK, Work

ON_ITS_WAY_S = 0.02
"""What was sent so shortly before news came, these did not tell of."""
STILL_SO_S = 12.0
"""For so long who said that it has nothing to do is believed to have told it again, as often as that arrives: until replicas do tell it
again, unchanged (`pipelines/cluster/replica.py`)."""
MAX_HOLDERS = 4
NUM_OWNERS = 2


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
    """Of one stage. `sent`: in order, to each replica; `open`: all that has no answer; `holders`: by hint;
    `making`: by name."""

    known: dict[_Key, Candidate] = field(default_factory=dict)
    sent: dict[_Key, deque[Sent]] = field(default_factory=dict)
    open: dict[int, Sent] = field(default_factory=dict)
    holders: dict[int, set[_Key]] = field(default_factory=dict)
    making: dict[int, "_Making"] = field(default_factory=dict)
    usual: Work | None = None


@dataclass(slots=True)
class _Making:
    """A result of this name is being made, or looked for, there; so many of this process wait for it."""

    key: _Key
    waiting: int = 1


@dataclass(slots=True)
class _Pool:
    members: dict[str, Member] = field(default_factory=dict)
    ongoing: Callable[[str], int | None] = lambda replica: None
    starts_in_s: float | None = None
    asleep_at: float | None = None  # since when somebody waits for it to have a replica


class ReplicaTable:
    """`draw`: numbers from 0 to 1, as from `random.random`."""

    def __init__(self, draw: Callable[[], float], settings: Ranking = Ranking()) -> None:
        self._draw, self._settings = draw, settings
        self._lock = threading.RLock()
        self._stages: dict[str, _Stage] = {}
        self._pools: dict[str, _Pool] = {}
        self._seeds: dict[tuple[str, ...], tuple[list[_Key], NDArray[np.uint64]]] = {}

    def rank_by(self, settings: Ranking) -> None:
        """From now on."""
        with self._lock:
            self._settings = settings

    # ---- who is there ----

    def is_known(self, pool: str) -> bool:
        """Whether anybody has said who is in it."""
        with self._lock:
            return pool in self._pools

    def members(self, pool: str, members: Sequence[Member], ongoing: Callable[[str], int | None], now: float) -> None:
        """Who is in a pool from now on. `ongoing`: how many requests a replica has in hand, as far as that is known."""
        with self._lock:
            known = self._pools.setdefault(pool, _Pool())
            if members and known.asleep_at is not None:
                known.starts_in_s, known.asleep_at = now - known.asleep_at, None
            was = known.members
            gone = was.keys() - {member.replica for member in members}
            known.members = {member.replica: member for member in members}
            known.ongoing = ongoing
            if known.members.keys() != was.keys():
                self._forget_seeds(pool)
            for stage in self._stages.values():
                for replica in gone:
                    _forget(stage, (pool, replica))

    def _forget_seeds(self, pool: str) -> None:
        for pools in [pools for pools in self._seeds if pool in pools]:
            del self._seeds[pools]

    def heard(self, pool: str, news: StageNews, now: float, *, delay_s: float = ON_ITS_WAY_S) -> None:
        """What a replica told; older than what is known, or of one that is gone, it is passed over. `delay_s`: how long it may have been on
        its way."""
        with self._lock:
            if pool in self._pools and news.replica not in self._pools[pool].members:
                return
            stage, key = self._stages.setdefault(news.stage, _Stage()), (pool, news.replica)
            candidate = _candidate(stage, key)
            if candidate.news is not None and candidate.news.number >= news.number:
                if candidate.news.number == news.number and not news.num_items and now - candidate.came_at <= STILL_SO_S:
                    candidate.heard_at = now  # it is still so; who has work, does it meanwhile
                return
            _index(stage, key, candidate.news.holds if candidate.news is not None else frozenset(), news.holds)
            candidate.news, candidate.came_at = news, now
            candidate.heard_at = max(candidate.heard_at, now - delay_s)
            candidate.changed()
            for sent in _told_of(stage.sent.get(key), news.replica, now - delay_s):
                self._uncount(stage, sent)
            if news.num_items and news.outstanding.steps > 0:
                stage.usual = news.outstanding * (1 / news.num_items)

    # ---- what was sent ----

    def sent(self, stage: str, pool: str, replica: str, work: Work | None, now: float, *, name: int | None = None) -> Sent:
        """On its way to this replica ("": the pool's router has yet to find one). To be ended with `ended`. What is being made there
        already is no more work."""
        with self._lock:
            of = self._stages.setdefault(stage, _Stage())
            making = of.making.get(name) if name is not None else None
            work = NO_WORK if making is not None and making.key == (pool, replica) else work
            sent = Sent(stage, pool, replica, work if work is not None else of.usual or NO_WORK, now, name)
            _join(of, sent)
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
            _leave(of, sent)
            was, waited_since = sent.replica, sent.at
            sent.replica, sent.at, sent.counts = replica, now, True
            if not was:
                self._waits_no_more(sent.pool, waited_since)
            _join(of, sent)
            self._count(of, sent)

    def ended(self, sent: Sent) -> None:
        """Answered, failed or called off. Idempotent."""
        with self._lock:
            of = self._stages[sent.stage]
            if of.open.pop(id(sent), None) is not None:
                _leave(of, sent)
                if not sent.replica:
                    self._waits_no_more(sent.pool, sent.at)
            if sent.counts:
                self._uncount(of, sent)

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
        pool = self._pools.get(sent.pool)
        if sent.replica and pool is not None and sent.replica not in pool.members:
            sent.counts = False  # of whom nobody is told that it is gone, nobody forgets
            return
        key = (sent.pool, sent.replica)
        candidate = _candidate(of, key)
        candidate.sent += sent.work
        candidate.num_sent += 1
        candidate.sent_at = sent.at
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
        candidate.changed()

    # ---- who is to do it ----

    def ranked(
        self, stage: str, pools: Sequence[str], wanted: Wanted, now: float, *, without: Collection[str] = ()
    ) -> Ranked | None:
        """Over the replicas of these pools, but for those named, if there are others. None: there are none that anybody knows of."""
        with self._lock:
            known = self._stages.setdefault(stage, _Stage())
            candidates = self._candidates(known, tuple(pools), wanted, now)
            if wanted.work is None and known.usual is not None:
                wanted = replace(wanted, work=known.usual)
            if making := [
                one for one in candidates if self._is_made_at(known, one, wanted.name) and one.replica not in without
            ]:
                found = rank(wanted, making, now, self._draw, self._settings)
                return replace(found, reasons=("it is being made there",)) if found is not None else None
            if without:
                candidates = [one for one in candidates if one.replica not in without] or candidates
            return rank(wanted, candidates, now, self._draw, self._settings)

    def _is_made_at(self, known: _Stage, one: Candidate, name: int | None) -> bool:
        making = known.making.get(name) if name is not None else None
        return making is not None and making.key == (one.pool, one.replica) and not one.is_full

    def _candidates(self, known: _Stage, pools: tuple[str, ...], wanted: Wanted, now: float) -> list[Candidate]:
        keys, seeds = self._all(pools)
        if len(keys) > self._settings.max_candidates:
            keys = self._some(known, pools, keys, seeds, wanted)
        found = []
        for key in keys:
            pool, candidate = self._pools[key[0]], _candidate(known, key)
            candidate.max_ongoing = pool.members[key[1]].max_ongoing
            candidate.ongoing = pool.ongoing(key[1])
            found.append(candidate)
        return found + self._asleep(known, pools, now)

    def _asleep(self, known: _Stage, pools: tuple[str, ...], now: float) -> list[Candidate]:
        """Pools without replicas, as far as somebody has seen how long one takes to start; with all that waits for them. The longer one
        was waited for beyond that, the longer it is yet to take: it may never be woken."""
        found = []
        for name in pools:
            pool = self._pools.get(name)
            if pool is not None and not pool.members and pool.starts_in_s is not None:
                waited_s = now - pool.asleep_at if pool.asleep_at is not None else 0.0
                candidate = _candidate(known, (name, ""))
                candidate.starts_in_s = max(pool.starts_in_s, waited_s)
                candidate.changed()
                found.append(candidate)
        return found

    def _all(self, pools: tuple[str, ...]) -> tuple[list[_Key], NDArray[np.uint64]]:
        if pools not in self._seeds:
            keys = [(pool, replica) for pool in pools if pool in self._pools for replica in self._pools[pool].members]
            self._seeds[pools] = keys, np.array([seed_of(replica) for _, replica in keys], np.uint64)
        return self._seeds[pools]

    def _some(
        self, known: _Stage, pools: Collection[str], keys: Sequence[_Key], seeds: NDArray[np.uint64], wanted: Wanted
    ) -> list[_Key]:
        chosen = dict.fromkeys(self._holders(known, pools, wanted.hints))
        if wanted.name is not None:
            making = known.making.get(wanted.name)
            if making is not None and self._is_there(making.key, pools):
                chosen[making.key] = None
            chosen |= dict.fromkeys(keys[at] for at in owners(wanted.name, seeds, NUM_OWNERS))
        missing = max(1, self._settings.max_candidates - len(chosen))
        chosen |= dict.fromkeys(keys[int(self._draw() * len(keys)) % len(keys)] for _ in range(missing))
        return list(chosen)

    def _holders(self, known: _Stage, pools: Collection[str], hints: Hints) -> list[_Key]:
        """In these pools. Of the longest beginnings first."""
        found: dict[_Key, None] = {}
        for held in (*reversed(hints.chain), *hints.parts):
            for key in known.holders.get(held, ()):
                if self._is_there(key, pools):
                    found[key] = None
                if len(found) == MAX_HOLDERS:
                    return list(found)
        return list(found)

    def _is_there(self, key: _Key, pools: Collection[str]) -> bool:
        pool = self._pools.get(key[0]) if key[0] in pools else None
        return pool is not None and key[1] in pool.members


def _candidate(stage: _Stage, key: _Key) -> Candidate:
    candidate = stage.known.get(key)
    if candidate is None:
        candidate = stage.known[key] = Candidate(*key, seed=seed_of(key[1]))
    return candidate


def _index(stage: _Stage, key: _Key, before: frozenset[int], after: frozenset[int]) -> None:
    for held in before - after:
        holders = stage.holders[held]
        holders.discard(key)
        if not holders:
            del stage.holders[held]
    for held in after - before:
        stage.holders.setdefault(held, set()).add(key)


def _join(stage: _Stage, sent: Sent) -> None:
    if sent.name is None or not sent.replica:
        return
    making = stage.making.get(sent.name)
    if making is None:
        stage.making[sent.name] = _Making((sent.pool, sent.replica))
    elif making.key == (sent.pool, sent.replica):
        making.waiting += 1


def _leave(stage: _Stage, sent: Sent) -> None:
    making = stage.making.get(sent.name) if sent.name is not None else None
    if making is not None and making.key == (sent.pool, sent.replica):
        making.waiting -= 1
        if not making.waiting:
            del stage.making[sent.name]  # type: ignore[arg-type]


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
        _index(stage, key, candidate.news.holds, frozenset())


@cache
def table_of_this_process() -> ReplicaTable:
    """What all callers of this process know together."""
    return ReplicaTable(random.Random().random)
