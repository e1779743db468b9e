"""The memory of pages that items hold before they start."""

from hypothesis import given
from hypothesis import strategies as st

from stages.host.pages.held import HeldPages


def test_a_page_that_several_hold_takes_its_memory_once() -> None:
    held = HeldPages(max_bytes=100)
    first, second = held.hold("ab", 40, "t"), held.hold("ab", 40, "t")
    assert (first, second, held.num_bytes) == (["a", "b"], ["a", "b"], 80)
    held.let_go(first)
    assert held.num_bytes == 80
    held.let_go(second)
    assert held.num_bytes == 0


def test_above_the_bound_nothing_more_is_held_and_a_run_ends_there() -> None:
    held = HeldPages(max_bytes=100)
    assert held.hold("abc", 40, "t") == ["a", "b"]
    assert held.hold("ad", 40, "t") == ["a"]
    assert held.hold("d", 40, "t") == []


def test_a_tenant_that_holds_nothing_is_let_in() -> None:
    held = HeldPages(max_bytes=100)
    held.hold("ab", 50, "crowd")
    assert held.hold("xy", 50, "single") == ["x"]


@given(st.lists(st.tuples(st.text("abcdef", max_size=6), st.sampled_from("tuv")), max_size=30))
def test_what_is_let_go_leaves_nothing(asked: list[tuple[str, str]]) -> None:
    held = HeldPages(max_bytes=1000)
    taken = []
    for names, tenant in asked:
        taken.append(held.hold([f"{tenant}{name}" for name in dict.fromkeys(names)], 100, tenant))
        assert held.num_bytes <= 1000 * (1 + 1 / 2 + 1 / 3) + 3 * 100
    for keys in taken:
        held.let_go(keys)
    assert held.num_bytes == 0
