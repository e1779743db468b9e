"""What is expected of replicas: as the plain way finds it, whatever is kept and left out to be quick."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.candidate import Candidate, Ranking, Wanted
from pipelines.routing.expected import Outlook
from pipelines.routing.ranking import rank
from stages.contract.cost import Part
from stages.contract.news import Hints
from stages.contract.work import Work
from tests.pipelines.routing.fleet import candidate, held, speed
from tests.pipelines.routing.plainly import expected

WORKS = st.builds(Work, st.floats(0.5, 2000.0), st.floats(1.0, 50.0))
HINTS = st.builds(
    Hints,
    st.lists(st.integers(0, 30), max_size=8, unique=True).map(tuple),
    st.builds(Work, st.floats(0.0, 200.0), st.floats(0.0, 5.0)),
    st.lists(st.integers(0, 30), max_size=3, unique=True).map(tuple),
    st.floats(0.0, 2.0),
)


@st.composite
def fleets(draw: st.DrawFn) -> list[Candidate]:
    """Replicas of two pools, some silent, some with things on their way, some in a process with another stage."""
    found = []
    for number in range(draw(st.integers(1, 9))):
        one = candidate(
            f"r{number}",
            draw(st.integers(0, 40)),
            pool=draw(st.sampled_from(["l4", "a100"])),
            times=draw(st.sampled_from([1.0, 3.0, 6.0])),
            failing=draw(st.sampled_from([0.0, 0.0, 0.3, 1.0])),
            heard_at=draw(st.floats(-30, 0)),
            holds=draw(st.lists(st.integers(0, 30), max_size=8)),
            is_known=draw(st.booleans()),
            each=draw(WORKS),
        )
        if draw(st.booleans()):
            one.sent, one.num_sent, one.sent_at = draw(WORKS) * 3, 3, draw(st.floats(-5, 0))
            one.sent_of = {draw(st.integers(0, 2)): (one.sent * (1 / 3), 1.0), 3: (one.sent * (2 / 3), 2.0)}
        if draw(st.integers(0, 5)) == 0:
            one.news = None
        if one.news is not None and (num_items := one.news.num_items) and draw(st.booleans()):
            num_later = draw(st.integers(1, num_items))
            one.news = replace(one.news, later=one.news.outstanding * (num_later / num_items), num_later=num_later)
        if one.news is not None and (num_items := one.news.num_items) and draw(st.booleans()):
            shares = [draw(st.floats(0, 1)) / 3 for _ in range(draw(st.integers(1, 3)))]
            tenants = {
                tenant: Part(
                    one.news.outstanding * share, num_items * share, one.news.outstanding * (share / 2), num_items * share / 2
                )
                for tenant, share in enumerate(shares)
            }
            one.news = replace(one.news, tenants=tenants)
        if one.news is not None and draw(st.booleans()):
            is_one_shot, beside_s = draw(st.booleans()), draw(st.sampled_from([0.0, 0.5]))
            if one.news.speed is not None:
                told = replace(one.news.speed, is_one_shot=is_one_shot, beside_s=beside_s)
                one.news = replace(one.news, speed=told)
            one.others = tuple(candidate(one.replica, draw(st.integers(0, 30)), heard_at=one.heard_at) for _ in range(2))
        found.append(one)
    return found


@given(fleets(), st.none() | WORKS, HINTS, st.floats(0, 20), st.floats(0, 20), st.integers(-1, 1), st.integers(0, 3))
def test_what_is_expected_is_what_the_plain_way_finds(
    fleet: list[Candidate], work: Work | None, hints: Hints, now: float, later: float, priority: int, tenant: int
) -> None:
    for moment, priority_then in ((now, priority), (now + later, -priority)):  # the second time with what was kept
        wanted = Wanted(work, hints, priority=priority_then, tenant=tenant)
        outlook = Outlook(fleet, wanted, held(fleet, hints), moment, Ranking())
        for place, plain in enumerate(expected(fleet, wanted, moment)):
            found = outlook.at(place)
            assert outlook.costs[place] == pytest.approx(plain.cost_s, abs=1e-9)
            assert found.finish_s == pytest.approx(plain.finish_s, abs=1e-9)
            assert outlook.alone_s(place) == pytest.approx(plain.alone_s, abs=1e-9)
            assert found.length_held == plain.length_held


@given(fleets(), WORKS, HINTS, st.integers(0, 2**32))
def test_what_is_urgent_goes_where_the_plain_way_finds_it_soonest(
    fleet: list[Candidate], work: Work, hints: Hints, seed: int
) -> None:
    wanted = Wanted(work, hints, priority=-1)
    found = rank(wanted, fleet, held(fleet, hints), 1.0, random.Random(seed).random)
    costs = [one.cost_s for one in expected(fleet, wanted, 1.0)]
    assert found is not None
    assert costs[fleet.index(found.best)] == pytest.approx(min(costs), abs=1e-9)
    others = [cost for cost, one in zip(costs, fleet, strict=True) if one is not found.best]
    if found.runner_up is not None:
        assert costs[fleet.index(found.runner_up)] == pytest.approx(min(others), abs=1e-9)


@given(fleets(), WORKS, st.integers(-1, 1), st.none() | st.integers(0, 2**64 - 1), st.sets(st.integers(0, 8)))
def test_nobody_who_is_full_is_chosen_while_another_has_room(
    fleet: list[Candidate], work: Work, priority: int, name: int | None, full: set[int]
) -> None:
    for number, one in enumerate(fleet):
        one.fills = lambda number=number: number in full
    found = rank(Wanted(work, name=name, priority=priority), fleet, held(fleet), 1.0, random.Random(1).random)
    assert found is not None
    assert not found.best.is_full or all(one.is_full for one in fleet)


def busy_beside(num_others: int, *, num_items: int = 0) -> Candidate:
    """A replica whose device two stages share."""
    one, other = candidate("r", num_items), candidate("r", num_others)
    one.others, other.others = (other,), (one,)
    return one


def finish_s(fleet: Sequence[Candidate], work: Work, now: float = 0.0) -> float:
    found = rank(Wanted(work, priority=-1), fleet, held(fleet), now, random.random)
    assert found is not None
    return found.finish_s


@given(WORKS, st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_a_stage_on_the_same_device_makes_it_slower_by_as_much_as_the_item_takes_at_most(
    work: Work, num_items: int, some: int, more: int
) -> None:
    some, more = sorted((some, more))
    alone_s = finish_s([busy_beside(0, num_items=num_items)], work)
    beside_some_s, beside_more_s = (finish_s([busy_beside(num, num_items=num_items)], work) for num in (some, more))
    assert alone_s <= beside_some_s + 1e-9 <= beside_more_s + 2e-9
    assert beside_more_s <= 2 * alone_s + 1e-9
    assert beside_more_s - alone_s <= speed().drain_s(Work(10.0, 10.0) * more, more) + 1e-9


def test_what_runs_beside_it_ends_and_slows_nobody_any_more() -> None:
    work = Work(10.0, 10.0)
    one, drain_s = busy_beside(3), speed().drain_s(work * 3, 3)
    assert finish_s([one], work, 0.0) > finish_s([one], work, drain_s / 2) > finish_s([one], work, 2 * drain_s)
    assert finish_s([one], work, 2 * drain_s) == pytest.approx(speed().finish_s(work))


def test_of_two_replicas_the_one_whose_device_is_its_own_is_sooner() -> None:
    shared, own = busy_beside(30), candidate("own")
    found = rank(Wanted(Work(10.0, 10.0)), [shared, own], held([]), 0.0, random.random)
    assert found is not None
    assert found.best is own
    found = rank(Wanted(Work(10.0, 10.0), priority=-1), [shared], held([]), 0.0, random.random)
    assert found is not None
    assert "its device is shared with 30 of other stages" in found.reasons
    assert found.alone_s == pytest.approx(speed().finish_s(Work(10.0, 10.0)))
