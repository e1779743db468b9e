"""Who is chosen, of replicas of unlike speed that say how much they have to do."""

import random
from collections import Counter
from dataclasses import replace
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.candidate import Candidate, Ranked, Wanted
from pipelines.routing.ownership import weight
from pipelines.routing.ranking import rank
from stages.contract.news import Hints
from stages.contract.work import Work
from tests.pipelines.routing.fleet import candidate, held, speed

WORK = Work(10.0, 10.0)
CANDIDATES = st.lists(
    st.builds(
        candidate,
        st.text("abcdef", min_size=1, max_size=3),
        st.integers(0, 40),
        pool=st.sampled_from(["l4", "a100"]),
        times=st.sampled_from([1.0, 3.0, 6.0]),
        failing=st.floats(0, 1),
        heard_at=st.floats(-60, 0),
        is_known=st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def ranked(wanted: Wanted, *candidates: Candidate, now: float = 0.0, draw: float = 0.0) -> Ranked:
    found = rank(wanted, candidates, held(candidates, wanted.hints), now, iter(repeat(draw)).__next__)
    assert found is not None
    return found


@given(CANDIDATES, st.integers(-1, 1), st.floats(0, 1), st.none() | st.just(WORK), st.none() | st.integers(0, 2**64 - 1))
def test_one_of_the_candidates_is_chosen_and_another_is_the_runner_up(
    candidates: list[Candidate], priority: int, draw: float, work: Work | None, name: int | None
) -> None:
    found = ranked(Wanted(work, name=name, priority=priority), *candidates, draw=draw)
    assert found.best in candidates
    assert found.finish_s >= 0
    assert found.runner_up is not found.best
    assert (found.runner_up is None) == (len(candidates) == 1)


def test_nobody_is_chosen_of_nobody() -> None:
    assert rank(Wanted(WORK), [], held([]), 0.0, random.random) is None


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from([1.0, 3.0, 6.0]))
def test_what_is_urgent_goes_where_the_cost_model_expects_it_soonest(busy: int, idle: int, times: float) -> None:
    fast, slow = candidate("fast", busy, pool="a"), candidate("slow", idle, pool="b", times=times)
    expected = {
        "fast": speed().finish_s(WORK, WORK * busy, busy),
        "slow": speed(times).finish_s(WORK, WORK * idle, idle),
    }
    found = ranked(Wanted(WORK, priority=-1), fast, slow)
    assert expected[found.best.replica] == pytest.approx(min(expected.values()))
    assert found.finish_s == pytest.approx(expected[found.best.replica])


def test_a_slower_pool_gets_work_once_the_faster_one_would_be_later() -> None:
    """Sent one after the other, and nothing is done meanwhile: each pool gets what it does in the same time."""
    fleet = [candidate("fast", pool="a"), candidate("slow", pool="b", times=3.0)]
    counts: Counter[str] = Counter()
    for _ in range(400):
        best = ranked(Wanted(WORK), *fleet, draw=0.5).best
        counts[best.replica] += 1
        best.sent, best.num_sent = best.sent + WORK, best.num_sent + 1
        best.changed()
    assert 0.2 < counts["slow"] / 400 < 0.3


def test_what_was_sent_since_the_news_counts_as_if_it_had_been_told() -> None:
    told, sent = candidate("told", 12), candidate("sent", 4)
    sent.sent, sent.num_sent = WORK * 8, 8
    found = ranked(Wanted(WORK, priority=-1), told, sent)
    assert found.finish_s == pytest.approx(found.runner_up_s)


def test_near_equals_are_chosen_at_random_and_the_faster_more_often() -> None:
    drawn = random.Random(1)
    fleet = [candidate(f"r{number}") for number in range(4)]
    counts = Counter(ranked(Wanted(WORK), *fleet, draw=drawn.random()).best.replica for _ in range(4000))
    assert all(850 < counts[one.replica] < 1150 for one in fleet)


def test_several_callers_with_the_same_news_do_not_all_choose_the_same_replica() -> None:
    """Each has sent nothing yet, and knows nothing of the others."""
    drawn = random.Random(2)
    fleet = [candidate(f"r{number}", 3) for number in range(8)]
    counts = Counter(ranked(Wanted(WORK), *fleet, draw=drawn.random()).best.replica for _ in range(800))
    assert max(counts.values()) < 160


@pytest.mark.parametrize(("length", "chosen"), [(80, "holder"), (2, "idle")])
def test_what_is_remembered_there_counts_as_done_and_no_more(length: int, chosen: str) -> None:
    """The holder is busy: what it holds must be worth more than the wait."""
    hints = Hints(tuple(range(100)), Work(1.0, 1.0), unit="tokens")
    holder, idle = candidate("holder", 9, holds=[length - 1]), candidate("idle")
    found = ranked(Wanted(Work(100.0, 100.0), hints), holder, idle)
    assert found.best.replica == chosen
    assert found.remembered == ((f"{length} tokens of its beginning",) if chosen == "holder" else ())


def test_affinity_makes_no_hot_spot() -> None:
    """All want what one replica holds; nothing is done meanwhile. It is ahead by what is saved, and by no more."""
    hints = Hints((7,), Work(5.0, 5.0))
    fleet = [candidate("holder", holds=[7]), candidate("other")]
    for _ in range(200):
        best = ranked(Wanted(WORK, hints), *fleet, draw=0.5).best
        saved = hints.each if best.replica == "holder" else Work(0.0, 0.0)
        best.sent, best.num_sent = best.sent + (WORK - saved), best.num_sent + 1
        best.changed()
    drains = [speed().drain_s(one.sent, one.num_sent) for one in fleet]
    assert abs(drains[0] - drains[1]) < 2 * speed().finish_s(WORK)


@pytest.mark.parametrize(("steps", "num_before", "chosen"), [(1.0, 0, "holder"), (50.0, 30, "holder"), (1.0, 30, "idle")])
def test_who_holds_the_whole_result_is_asked_unless_it_is_made_sooner_than_it_might_be_gone(
    steps: float, num_before: int, chosen: str
) -> None:
    """By when it is this one's turn it may be forgotten: a part of the line counts, and of what would have to be made again."""
    work = Work(steps, steps)
    holder, idle = candidate("holder", num_before, holds=[7]), candidate("idle")
    found = ranked(Wanted(work, Hints((7,), work), name=7), holder, idle)
    assert found.best.replica == chosen
    if chosen == "holder":
        assert found.finish_s == pytest.approx(0.2 * speed().finish_s(work, Work(10.0, 10.0) * num_before, num_before))
        assert found.alone_s == pytest.approx(0.2 * speed().finish_s(work))


@given(st.integers(0, 2**64 - 1))
def test_a_name_goes_to_its_owner_unless_that_is_a_full_batch_behind(name: int) -> None:
    fleet = [candidate(f"r{number}", each=Work(1.0)) for number in range(4)]
    own = max(fleet, key=lambda one: weight(name, one.seed))
    assert ranked(Wanted(Work(1.0), name=name), *fleet).best is own
    busy = [replace_items(one, 7 if one is own else 0) for one in fleet]
    assert ranked(Wanted(Work(1.0), name=name), *busy).best.replica == own.replica
    busier = [replace_items(one, 40 if one is own else 0) for one in fleet]
    assert ranked(Wanted(Work(1.0), name=name), *busier).best.replica != own.replica


def replace_items(one: Candidate, num_items: int) -> Candidate:
    return candidate(one.replica, num_items, each=Work(1.0))


def test_a_name_is_not_given_to_a_device_so_slow_that_a_full_batch_elsewhere_is_sooner() -> None:
    fast, slow = candidate("fast", pool="a"), candidate("slow", pool="b", times=6.0)
    chosen = {ranked(Wanted(Work(1.0), name=name), fast, slow).best.replica for name in range(64)}
    assert chosen == {"fast"}


def test_what_is_not_urgent_leaves_the_faster_device_to_others_unless_its_deadline_is_near() -> None:
    fast, slow = candidate("fast", pool="a"), candidate("slow", pool="b", times=1.8)
    alone_s = speed().finish_s(WORK)
    assert ranked(Wanted(WORK, priority=1), fast, slow).best is slow
    assert ranked(Wanted(WORK, priority=0), fast, slow).best is fast
    assert ranked(Wanted(WORK, priority=1, left_s=2.5 * alone_s), fast, slow).best is fast
    assert ranked(Wanted(WORK, priority=1, left_s=1.1 * alone_s), fast, slow).best is fast


def test_a_near_deadline_takes_the_soonest_and_draws_no_lots() -> None:
    soonest, near = candidate("soonest", 2), candidate("near", 2, each=Work(10.2, 10.0))
    tight = Wanted(WORK, left_s=1.1 * speed().finish_s(WORK))
    assert {ranked(tight, soonest, near, draw=draw).best.replica for draw in (0.0, 0.5, 0.99)} == {"soonest"}
    relaxed = Wanted(WORK)
    assert {ranked(relaxed, soonest, near, draw=draw).best.replica for draw in (0.0, 0.99)} == {"soonest", "near"}


def test_who_fails_fast_and_has_therefore_nothing_to_do_gets_less_not_more() -> None:
    failing, busy = candidate("failing", failing=0.9), candidate("busy", 7)
    assert ranked(Wanted(WORK), failing, busy).best is busy


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_more_one_fails_the_later_it_counts(little: float, much: float) -> None:
    little, much = sorted((little, much))
    less, more = candidate("less", 3, failing=little), candidate("more", 3, failing=much)
    found = ranked(Wanted(WORK, priority=-1), more, less)
    assert found.best is less or little == pytest.approx(much, abs=1e-6) or min(little, much) >= 0.95


def test_old_news_weighs_less_until_it_is_the_pools_mean() -> None:
    """One said long ago that it was idle; its pool is known to be busy."""
    others = [candidate(f"r{number}", 200, heard_at=0.0) for number in range(3)]
    stale = candidate("stale", 0, heard_at=-1000.0)
    mean = ranked(Wanted(WORK, priority=-1), *others).finish_s
    assert ranked(Wanted(WORK, priority=-1), stale, *others).finish_s == pytest.approx(0.75 * mean, rel=0.1)
    fresh = ranked(Wanted(WORK, priority=-1), replace(stale, heard_at=0.0), *others)
    assert fresh.finish_s == pytest.approx(speed().finish_s(WORK))


def test_work_that_was_told_of_a_while_ago_is_partly_done_by_now() -> None:
    one, told = candidate("one", 20), speed().finish_s(WORK, WORK * 20, 20)
    drain_s = speed().drain_s(WORK * 20, 20)
    assert ranked(Wanted(WORK), one, now=0.0).finish_s == pytest.approx(told)
    assert ranked(Wanted(WORK), one, now=drain_s / 2).finish_s < told
    assert ranked(Wanted(WORK), one, now=2 * drain_s).finish_s == pytest.approx(speed().finish_s(WORK))


def test_of_whom_nobody_has_heard_is_supposed_to_be_as_its_pool() -> None:
    heard, unheard = candidate("heard", 50), Candidate("pool", "unheard")
    found = ranked(Wanted(WORK, priority=-1), heard, unheard)
    assert found.finish_s == pytest.approx(found.runner_up_s)


def test_an_unknown_speed_is_the_pools_then_the_stages() -> None:
    fast, slow = candidate("fast", 30, pool="a"), candidate("slow", 1, pool="b", times=6.0)
    unknown = candidate("unknown", 1, pool="b", is_known=False)
    found = ranked(Wanted(WORK, priority=-1), slow, unknown)
    assert found.finish_s == pytest.approx(found.runner_up_s)
    elsewhere = ranked(Wanted(WORK, priority=-1), fast, candidate("unknown", 1, pool="c", is_known=False))
    assert elsewhere.best.replica == "unknown"
    assert elsewhere.finish_s == pytest.approx(speed().finish_s(WORK, WORK, 1))


def test_where_no_speed_is_known_whoever_has_fewest_is_chosen() -> None:
    fleet = [candidate(f"r{count}", count, is_known=False) for count in (3, 1, 2)]
    assert ranked(Wanted(None), *fleet).best.replica == "r1"


@pytest.mark.parametrize("priority", [0, 1])
def test_where_no_speed_is_known_no_deadline_is_near_and_a_name_goes_to_its_owner(priority: int) -> None:
    fleet = [candidate(f"r{number}", 0, is_known=False) for number in range(8)]
    for name in range(20):
        found = ranked(Wanted(Work(1e6), name=name, priority=priority, left_s=60.0), *fleet)
        assert not found.is_known
        assert found.best.replica == max(fleet, key=lambda one: weight(name, one.seed)).replica


def test_full_replicas_are_passed_over_unless_all_are() -> None:
    full, free = candidate("full"), candidate("free", 20)
    full.fills, free.fills = (lambda: True), (lambda: False)
    found = ranked(Wanted(WORK), full, free)
    assert found.best is free
    assert "1 others are full" in found.reasons
    free.fills = full.fills
    assert ranked(Wanted(WORK), full, free).best is full


def test_a_pool_that_has_yet_to_start_is_chosen_once_starting_it_is_sooner_than_waiting() -> None:
    asleep = Candidate("asleep", "", starts_in_s=30.0)
    assert ranked(Wanted(WORK), asleep, candidate("busy", 10, pool="b")).best.replica == "busy"
    assert ranked(Wanted(WORK), asleep, candidate("busy", 400, pool="b")).best is asleep


@pytest.mark.parametrize("num_pages", [0, 94])
def test_a_model_of_cost_is_asked_as_often_as_there_are_candidates_and_no_more(
    num_pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows from the news alone is worked out once, when it comes."""
    asked: Counter[str] = Counter()
    cls = type(speed())
    for method in ("step_s", "drain_s", "finish_s", "ahead", "done_s"):
        was = getattr(cls, method)

        def counting(self: object, *args: object, was: object = was, method: str = method) -> object:
            asked[method] += 1
            return was(self, *args)  # type: ignore[operator]

        monkeypatch.setattr(cls, method, counting)
    fleet = [candidate(f"r{number}", number, times=1 + number % 3) for number in range(16)]
    wanted = Wanted(WORK, Hints(tuple(range(num_pages)), Work(0.1, 0.1)), priority=-1)
    ranked(wanted, *fleet)
    asked.clear()
    ranked(wanted, *fleet)
    assert asked["drain_s"] == asked["finish_s"] == asked["ahead"] == 0
    assert asked["step_s"] <= 1
    assert asked["done_s"] <= len(fleet) + 4  # and of the best and the runner-up, also alone
