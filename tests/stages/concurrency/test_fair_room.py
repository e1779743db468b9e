"""Room for bytes and pixels: never more than there is, nothing lost, and no tenant before one that holds less."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stages.concurrency.fair_room import FairRoom, Waiting

SIZE = 100


def let_in(room: FairRoom, *asked: tuple[str, int]) -> list[Waiting]:
    """What those who ask one after another come to hold, all of them at once."""
    waiting = [room.wait(tenant, size) for tenant, size in asked]
    room.let_in()
    assert all(each.is_let_in for each in waiting)
    return waiting


def test_of_one_tenant_who_came_first_goes_first() -> None:
    room = FairRoom(SIZE)
    (first,) = let_in(room, ("a", SIZE))
    second, third, fourth = (room.wait("a", size) for size in (60, 40, 1))
    assert room.let_in() == []
    room.leave(first)
    assert room.let_in() == [second, third]
    assert not fourth.is_let_in


def test_tenants_that_hold_equally_much_go_in_order_of_arrival() -> None:
    room = FairRoom(SIZE)
    (first,) = let_in(room, ("a", SIZE))
    waiting = [room.wait(tenant, 10) for tenant in ("c", "b", "d")]
    room.leave(first)
    assert room.let_in() == waiting


def test_the_tenant_that_holds_least_goes_first() -> None:
    room = FairRoom(SIZE)
    mine, _, theirs = let_in(room, ("a", 40), ("a", 40), ("b", 20))
    more, other = room.wait("a", 20), room.wait("b", 40)
    room.leave(mine)
    assert room.let_in() == [other]
    room.leave(theirs)
    assert room.let_in() == [more]


def test_what_is_large_is_not_passed_by_what_is_small() -> None:
    room = FairRoom(SIZE)
    (first,) = let_in(room, ("a", 60))
    large, small = room.wait("b", SIZE), room.wait("b", 1)
    assert room.let_in() == []
    room.leave(first)
    assert room.let_in() == [large]
    room.leave(large)
    assert room.let_in() == [small]


def test_who_gives_up_makes_way() -> None:
    room = FairRoom(SIZE)
    let_in(room, ("a", 60))
    large, small = room.wait("b", SIZE), room.wait("b", 1)
    assert room.missing == 61
    room.leave(large)
    assert room.let_in() == [small]
    assert room.missing == -39


def test_one_of_several_tenants_leaves_as_much_as_it_takes_but_one_largest_thing_always_fits() -> None:
    room = FairRoom(SIZE, is_shared=True)
    let_in(room, ("a", 25), ("a", 25))
    more = room.wait("a", 1)
    assert room.let_in() == []
    let_in(room, ("b", 25))
    room.limit(SIZE, largest=51, is_shared=True)
    assert room.let_in() == [more]


class Rooms(RuleBasedStateMachine):
    """Any order of coming, giving up and giving back."""

    def __init__(self) -> None:
        super().__init__()
        self.room, self.waiting, self.held = FairRoom(SIZE), list[Waiting](), list[Waiting]()

    @rule(tenant=st.sampled_from("abc"), size=st.integers(0, SIZE))
    def comes(self, tenant: str, size: int) -> None:
        self.waiting.append(self.room.wait(tenant, size))
        self._goes_on()

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 100))
    def gives_up(self, number: int) -> None:
        self.room.leave(self.waiting.pop(number % len(self.waiting)))
        self._goes_on()

    @precondition(lambda self: self.held)
    @rule(number=st.integers(0, 100))
    def gives_back(self, number: int) -> None:
        self.room.leave(self.held.pop(number % len(self.held)))
        self._goes_on()

    def _goes_on(self) -> None:
        for each in self.room.let_in():
            firsts = {other.tenant: other for other in reversed(self.waiting)}
            assert firsts[each.tenant] is each
            assert all(self._of(each.tenant) <= self._of(tenant) for tenant in firsts)
            self.waiting.remove(each)
            self.held.append(each)

    def _of(self, tenant: str) -> int:
        return sum(each.size for each in self.held if each.tenant == tenant)

    @invariant()
    def holds_what_was_let_in_and_no_more_than_there_is(self) -> None:
        assert self.room.held == sum(each.size for each in self.held) <= SIZE

    @invariant()
    def somebody_is_let_in_where_nothing_is_held(self) -> None:
        assert self.held or not self.waiting


TestRooms = Rooms.TestCase
