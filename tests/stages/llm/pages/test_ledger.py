"""What is worth remembering, and that it is handed over once."""

from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stages.llm.pages.ledger import BELIEVED_S, LyingPage, PageLedger
from tests.stages.fakes import HandClock


def computed(ledger: PageLedger, slot: int, names: Sequence[str], num_found: int = 0) -> None:
    """A prompt of these pages comes, and is computed."""
    ledger.ask(names)
    ledger.hold(slot, names, num_found)


def handed_over(ledger: PageLedger, *, idle: bool = False) -> list[str]:
    return [page.name for page in iter(lambda: ledger.next(idle=idle), None)]


def test_what_was_seen_once_leaves_only_when_nothing_else_is_to_be_done() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a", "b"])
    assert not ledger.has_next(idle=False)
    assert ledger.next(idle=False) is None
    assert ledger.has_next(idle=True)
    assert handed_over(ledger, idle=True) == ["a", "b"]
    assert not ledger.has_next(idle=True)


def test_what_is_asked_for_again_leaves_at_once_the_beginning_first() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a", "b", "c"])
    ledger.ask(["a", "b"])
    assert ledger.next(idle=False) == LyingPage("a", 0, 0)
    assert ledger.next(idle=False) == LyingPage("b", 0, 1)
    assert ledger.next(idle=False) is None
    assert handed_over(ledger, idle=True) == ["c"]


def test_an_answers_page_is_seen_when_it_is_made_and_again_when_the_next_turn_asks_for_it() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a"])
    ledger.hold(0, ["a", "answer"], 0)
    ledger.ask(["a", "answer"])
    assert handed_over(ledger) == ["a", "answer"]


def test_what_was_brought_is_not_handed_over() -> None:
    ledger = PageLedger()
    ledger.ask(["a", "b"])
    ledger.give(["a"])
    ledger.hold(0, ["a", "b"], 1)
    assert handed_over(ledger, idle=True) == ["b"]


def test_what_had_to_be_made_again_is_handed_over_again() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a"])
    assert handed_over(ledger, idle=True) == ["a"]
    ledger.let_go(0)
    computed(ledger, 1, ["a"])
    assert handed_over(ledger) == ["a"]


def test_what_two_rows_made_at_the_same_moment_is_handed_over_once() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a"])
    assert handed_over(ledger, idle=True) == ["a"]
    computed(ledger, 1, ["a"])
    assert handed_over(ledger, idle=True) == []


def test_what_no_slot_holds_any_more_is_lost() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a", "b"])
    computed(ledger, 1, ["a", "c"])
    ledger.let_go(0)
    assert [ledger.next(idle=True) for _ in range(3)] == [LyingPage("a", 1, 0), LyingPage("c", 1, 1), None]


def test_the_last_chance_is_for_what_was_asked_for_again_and_lies_nowhere_else() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["kept", "elsewhere", "often", "also", "once"])
    ledger.ask(["kept", "elsewhere", "often", "also"])
    ledger.hold(1, ["kept", "elsewhere"], 2)
    assert [page.name for page in islice(ledger.last_chance(0, 1), 1)] == ["often"]
    ledger.let_go(0)
    assert handed_over(ledger, idle=True) == ["kept", "elsewhere"]  # and "also" is lost


def test_after_a_while_what_was_handed_over_or_found_is_handed_over_again_once_it_is_asked_for() -> None:
    time = HandClock()
    ledger = PageLedger(clock=time.clock.monotonic)
    computed(ledger, 0, ["a", "b"])
    assert handed_over(ledger, idle=True) == ["a", "b"]
    time.now += BELIEVED_S - 1
    ledger.ask(["a", "b"])
    ledger.give(["b"])
    time.now += 1
    assert handed_over(ledger, idle=True) == []
    ledger.ask(["a", "b"])
    assert handed_over(ledger) == ["a"]
    ledger.ask(["a"])
    ledger.let_go(0)
    time.now += BELIEVED_S
    ledger.ask(["a", "b"])
    assert handed_over(ledger, idle=True) == []
    ledger.check_integrity()


def test_what_got_lost_is_handed_over_again_once_it_is_asked_for() -> None:
    ledger = PageLedger()
    computed(ledger, 0, ["a", "b"])
    assert handed_over(ledger, idle=True) == ["a", "b"]
    ledger.lose("a")
    ledger.lose("unknown")
    assert handed_over(ledger, idle=True) == []
    ledger.ask(["a", "b"])
    assert handed_over(ledger) == ["a"]


def test_names_heard_of_longest_ago_are_forgotten_first() -> None:
    ledger = PageLedger(max_seen=2)
    computed(ledger, 0, ["a"])
    ledger.ask(["b", "c"])
    ledger.ask(["a"])
    assert handed_over(ledger) == []
    ledger.ask(["a"])
    assert handed_over(ledger) == ["a"]


CHAINS = ["a", "ab", "abc", "abd", "x", "xy"]
"""Beginnings by their last page: "abc" is the third page after "a" and "ab"."""


def pages_of(chain: str) -> list[str]:
    return [chain[: end + 1] for end in range(len(chain))]


class Slots(RuleBasedStateMachine):
    """Prompts come, are computed, leave, in three slots; pages are handed over whenever."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = PageLedger()
        self.slots: dict[int, list[str]] = {}
        self.asked: dict[str, int] = {}
        self.out: set[str] = set()  # handed over, and not made again since everybody lost it

    def _lies(self, name: str) -> bool:
        return any(name in names for names in self.slots.values())

    @rule(slot=st.integers(0, 2), chain=st.sampled_from(CHAINS), found=st.integers(0, 3))
    def comes(self, slot: int, chain: str, found: int) -> None:
        names = pages_of(chain)
        self.ledger.let_go(slot)
        self.slots.pop(slot, None)
        found = next((at for at, name in enumerate(names[:found]) if not self._lies(name)), min(found, len(names)))
        self.ledger.ask(names)
        for number, name in enumerate(names):
            self.asked[name] = self.asked.get(name, 0) + 1
            if number >= found and not self._lies(name):
                self.out.discard(name)
        self.ledger.hold(slot, names, found)
        self.slots[slot] = names

    @rule(slot=st.integers(0, 2))
    def is_forgotten(self, slot: int) -> None:
        self.ledger.let_go(slot)
        self.slots.pop(slot, None)

    @precondition(lambda self: self.slots)
    @rule(idle=st.booleans())
    def leaves(self, idle: bool) -> None:
        page = self.ledger.next(idle=idle)
        expected = {
            name for names in self.slots.values() for name in names if name not in self.out and (idle or self.asked[name] >= 2)
        }
        assert (page is None) == (not expected)
        if page is not None:
            assert page.name in expected
            assert self.slots[page.slot][page.number] == page.name
            self.out.add(page.name)

    @invariant()
    def it_does_not_contradict_itself(self) -> None:
        self.ledger.check_integrity()


TestSlots = pytest.mark.filterwarnings("default")(Slots.TestCase)
TestSlots.settings = settings(max_examples=60, stateful_step_count=30)
