"""Fairness between tenants, whatever they send."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contract.limits import BatchLimits
from stages.engine.scheduling.fairness import VirtualCounters, fill, fill_fairly
from stages.engine.scheduling.scheduler import Entry, IterativeScheduler, OneShotScheduler
from tests.stages.engine.scheduling.tenants import ROOM, entry, ids, start_all


@dataclass(frozen=True)
class Habit:
    """What a tenant sends: its pieces' costs and keys, over and over."""

    costs: Sequence[float]
    keys: Sequence[str]
    priority: int

    def pieces(self, tenant: str) -> Iterator[Entry[str]]:
        for number in itertools.count():
            cost, key = self.costs[number % len(self.costs)], self.keys[number % len(self.keys)]
            yield entry(f"{tenant}{number}", tenant, key, cost, priority=self.priority, deadline=1e9 + self.priority)


habits = st.builds(
    Habit,
    st.lists(st.sampled_from([0.5, 1.0, 3.0, 8.0]), min_size=1, max_size=5),
    st.lists(st.sampled_from("xyz"), min_size=1, max_size=4),
    st.integers(-3, 3),
)


batches = st.builds(BatchLimits, st.integers(1, 6), st.sampled_from([1.0, 8.0, math.inf]))


class Books:
    """What each has had, and by how much the two that always want something have ever drifted apart."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.least, self.most = 0.0, 0.0

    def note(self, chosen: Sequence[Entry[str]]) -> None:
        for one in chosen:
            self.served[one.tenant] += one.cost  # type: ignore[assignment]
        difference = float(self.served["a"] - self.served["b"])
        self.least, self.most = min(self.least, difference), max(self.most, difference)


@settings(max_examples=60, deadline=None)
@given(st.lists(habits, min_size=2, max_size=4), batches, st.integers(7, 20))
def test_two_that_always_want_batches_get_the_same_over_any_interval(
    given: list[Habit], limits: BatchLimits, depth: int
) -> None:
    """The first two always have more pieces in line than a batch takes; others come and go."""
    scheduler: OneShotScheduler[str] = OneShotScheduler(limits, ROOM)
    senders = [habit.pieces(tenant) for tenant, habit in zip("abcd", given, strict=False)]
    books, now = Books(), 0.0
    for turn in range(120):
        for number, sender in enumerate(senders):
            waiting = sum(each.tenant == "abcd"[number] for each in scheduler.waiting)
            if number < 2 or turn // 10 % 2:
                for piece in itertools.islice(sender, max(0, depth - waiting)):
                    scheduler.add(piece)
        chosen = scheduler.next_batch(now)
        scheduler.complete(ids(chosen.entries), chosen.cost)
        books.note(chosen.entries)
        now += chosen.cost
    scheduler.check_integrity()
    assert books.most - books.least <= 4 * limits.max_items * 8.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(habits, min_size=2, max_size=3),
    st.builds(BatchLimits, st.integers(1, 6), st.sampled_from([8.0, math.inf])),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
)
def test_two_that_always_want_rows_get_the_same_over_any_interval(
    given: list[Habit], limits: BatchLimits, lengths: list[int]
) -> None:
    """The first two always have pieces in line; each row takes some steps of its cost."""
    scheduler: IterativeScheduler[str] = IterativeScheduler(limits, ROOM)
    senders = [habit.pieces(tenant) for tenant, habit in zip("abc", given, strict=False)]
    books, left = Books(), dict[str, int]()
    for turn in range(150):
        for number, sender in enumerate(senders):
            waiting = sum(each.tenant == "abc"[number] for each in scheduler.waiting)
            if number < 2 or turn // 20 % 2:
                for piece in itertools.islice(sender, max(0, 10 - waiting)):
                    scheduler.add(piece)
        while True:
            for name in start_all(scheduler):
                left.setdefault(name, lengths[int(name[1:]) % len(lengths)])
            if scheduler.preempt(0.0) is None:
                break
        chosen = scheduler.next_batch(0.0)
        for one in chosen.entries:
            left[one.id] -= 1
        done = [one.id for one in chosen.entries if not left[one.id]]
        scheduler.complete(ids(chosen.entries), chosen.cost, done=done, shares={})
        books.note(chosen.entries)
    scheduler.check_integrity()
    largest = 8.0 * max(lengths)
    assert books.most - books.least <= 4 * limits.max_items * largest


@settings(max_examples=60, deadline=None)
@given(habits, st.integers(1, 5), batches, st.sampled_from([0.0, 0.5, 8.0]), st.integers(-3, 3))
def test_nothing_starves_however_many_flood_the_line(
    crowd: Habit, num_others: int, limits: BatchLimits, cost: float, priority: int
) -> None:
    scheduler: OneShotScheduler[str] = OneShotScheduler(limits, ROOM)
    senders = [crowd.pieces(f"crowd{number}.") for number in range(num_others)]
    now = 0.0
    for turn in range(20 * (num_others + 1)):
        for sender in senders:
            for piece in itertools.islice(sender, 8):
                scheduler.add(piece)
        if turn == 10:
            scheduler.add(entry("one", "single", "rare", cost, priority=priority, arrival=now))
        chosen = scheduler.next_batch(now)
        scheduler.complete(ids(chosen.entries), chosen.cost)
        now += chosen.cost
        if "one" in ids(chosen.entries):
            return
    raise AssertionError("it starved")


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from([0.0, 1.0, 5.0, 9.0])), max_size=20), batches)
def test_with_one_tenant_a_batch_is_filled_in_rank_order_as_ever(pieces: list[tuple[str, float]], limits: BatchLimits) -> None:
    line = [entry(f"{number}", "a", key, cost) for number, (key, cost) in enumerate(pieces)]
    assert fill_fairly({"a": line}, limits, VirtualCounters()) == fill(line, limits)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from([0.0, 1.0, 5.0, 9.0])), min_size=1, max_size=9),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.1, 50)),
    batches,
)
def test_a_batch_keeps_its_bounds_and_is_led_by_whoever_has_had_least(
    pieces: dict[str, list[tuple[str, float]]], had: dict[str, float], limits: BatchLimits
) -> None:
    counters = VirtualCounters()
    for tenant, cost in had.items():
        counters.charge({tenant: cost}, cost)
    lines = {
        tenant: [entry(f"{tenant}{number}", tenant, key, cost) for number, (key, cost) in enumerate(line)]
        for tenant, line in pieces.items()
    }
    chosen = fill_fairly(lines, limits, counters)
    assert counters.of(chosen[0].tenant) == min(counters.of(tenant) for tenant in lines)
    assert chosen[0] == lines[chosen[0].tenant][0]
    assert len(chosen) <= limits.max_items
    assert len({one.batch_key for one in chosen}) == 1
    assert len(chosen) == 1 or sum(one.cost for one in chosen) <= limits.max_cost
    assert len({one.id for one in chosen}) == len(chosen)
    for tenant, line in lines.items():
        own = [one for one in chosen if one.tenant == tenant]
        assert own == [one for one in line if one in own], "a tenant's own order was changed"
