"""Who is let into a line that is full, and how much may wait in all."""

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stages.contract.errors import QueueFull
from stages.contract.limits import QueueLimits
from stages.engine.scheduling.room import Tally, has_room_for_another, has_room_for_cost
from stages.engine.scheduling.waiting import Entry, WaitingLine


def tally(**held: int) -> Tally[str]:
    made: Tally[str] = Tally()
    for tenant, count in held.items():
        for _ in range(count):
            made.add(tenant, 1.0)
    return made


@pytest.mark.parametrize(
    ("held", "tenant", "max_items", "expected"),
    [
        ({}, "a", 1, True),
        ({"a": 3}, "a", 4, True),
        ({"a": 4}, "a", 4, False),
        ({"a": 4}, "b", 4, True),  # up to a half
        ({"a": 4, "b": 1}, "b", 4, True),
        ({"a": 4, "b": 2}, "b", 4, False),
        ({"a": 4, "b": 2}, "a", 4, False),
        ({"a": 4, "b": 2}, "c", 4, True),  # up to a third, and at least one
        ({"a": 4, "b": 2, "c": 1}, "c", 4, False),
        ({"a": 1}, "b", 1, True),
        ({"a": 1, "b": 1}, "b", 1, False),
        ({"a": 1, "b": 1}, "a", 4, True),
    ],
)
def test_where_a_line_is_full_whoever_has_less_than_an_equal_part_is_let_in(
    held: dict[str, int], tenant: str, max_items: int, expected: bool
) -> None:
    assert has_room_for_another(tally(**held), tenant, QueueLimits(max_items)) is expected


@pytest.mark.parametrize(
    ("held", "tenant", "cost", "expected"),
    [
        ({}, "a", 99, True),  # alone, whatever it costs
        ({"a": 6}, "a", 4, True),
        ({"a": 6}, "a", 5, False),
        ({"a": 10}, "b", 99, True),  # its tenant has nothing
        ({"a": 10, "b": 1}, "b", 4, True),
        ({"a": 10, "b": 1}, "b", 5, False),
        ({"a": 10, "b": 5}, "c", 1, True),
    ],
)
def test_the_same_holds_for_cost(held: dict[str, int], tenant: str, cost: float, expected: bool) -> None:
    assert has_room_for_cost(tally(**held), tenant, cost, QueueLimits(max_cost=10)) is expected


def test_a_refused_tenant_is_told_and_another_is_let_in_and_counted() -> None:
    line: WaitingLine[str] = WaitingLine("s", QueueLimits(max_items=2), 2.0)
    for number in range(2):
        line.add(Entry(f"a{number}", "", tenant="a"))
    with pytest.raises(QueueFull, match="2 items wait"):
        line.add(Entry("a2", "", tenant="a"))
    line.refuse_if_full(1.0, "b")
    line.add(Entry("b0", "", tenant="b"))
    assert line.num_let_in_beyond == 1
    with pytest.raises(QueueFull):
        line.refuse_if_full(1.0, "b")
    line.check_integrity()


def test_what_proves_costlier_than_was_thought_is_judged_by_its_tenants_part() -> None:
    line: WaitingLine[str] = WaitingLine("s", QueueLimits(max_cost=10), 2.0)
    line.add(Entry("a", "", cost=10.0, tenant="a"))
    for name in ("b0", "b1"):
        line.add(Entry(name, "", cost=1.0, tenant="b", ready=False))
    assert line.ready("b0", "k", 4.0)
    with pytest.raises(QueueFull):
        line.ready("b1", "k", 2.0)
    assert "b1" not in line
    line.check_integrity()


tenants = st.sampled_from("abcd")
costs = st.sampled_from([0.0, 0.5, 1.0, 3.0, 8.0, 20.0])


class Lines(RuleBasedStateMachine):
    """A line and its tenants, who come and go as they like. What `check_integrity` promises is checked after every rule."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        self.let_in: set[str] = set()

    @initialize(limits=st.builds(QueueLimits, st.integers(1, 8), st.sampled_from([5.0, 40.0, math.inf])))
    def make(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.line: WaitingLine[str] = WaitingLine("s", limits, 2.0)

    @rule(tenant=tenants, cost=costs, ready=st.booleans(), request=st.sampled_from(["", "r"]))
    def add(self, tenant: str, cost: float, ready: bool, request: str) -> None:
        self.serial += 1
        own = Counter(entry.tenant for entry in self.line)
        one = Entry(f"{self.serial}", "", cost=cost, ready=ready, tenant=tenant, request=request)
        try:
            self.line.add(one)
        except QueueFull:
            assert own[tenant], "who has nothing in line is always let in"
        else:
            assert own[tenant] < self.limits.max_items
            self.let_in.add(one.id)

    @rule(data=st.data(), cost=costs)
    @precondition(lambda self: any(not entry.ready for entry in self.line))
    def prepared(self, data: st.DataObject, cost: float) -> None:
        one = data.draw(st.sampled_from([entry.id for entry in self.line if not entry.ready]))
        try:
            self.line.ready(one, "k", cost)
        except QueueFull:
            self.let_in.remove(one)

    @rule(data=st.data(), how=st.sampled_from(["take", "aside", "back", "expire"]))
    @precondition(lambda self: len(self.line) > 0)
    def leave(self, data: st.DataObject, how: str) -> None:
        one = data.draw(st.sampled_from([entry.id for entry in self.line]))
        if how == "aside":
            self.line.set_aside(one)
            if data.draw(st.booleans()):
                assert self.line.bring_back(one)
            else:
                assert self.line.take(one) is not None
                self.let_in.remove(one)
            return
        entry = self.line.take(one)
        assert entry is not None
        if how == "back":
            self.line.put_back(entry, 1.0)
        else:
            self.let_in.remove(one)

    @invariant()
    def promises_hold(self) -> None:
        if self.serial:
            self.line.check_integrity()
            assert {entry.id for entry in self.line} == self.let_in
            assert self.line.num_tenants == len({entry.tenant for entry in self.line})
            assert set(self.line.ready_tenants()) == {entry.tenant for entry in self.line if entry.ready}
            assert self.line.cost == pytest.approx(sum(entry.cost for entry in self.line))


Lines.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLines = Lines.TestCase
