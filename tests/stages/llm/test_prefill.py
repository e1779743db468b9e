"""How waiting prompts share a step's budget."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from stages.llm.prefill import Pass, group_by_length, planned, share_budget

PROMPTS = st.lists(st.integers(1, 500), max_size=12)


@given(PROMPTS, st.integers(1, 300))
def test_the_budget_is_kept_and_never_wasted(remaining: list[int], budget: int) -> None:
    shares = share_budget(remaining, budget)
    assert sum(shares) == min(budget, sum(remaining))
    assert all(0 <= share <= wanted for share, wanted in zip(shares, remaining, strict=True))


@given(PROMPTS.filter(bool), st.integers(1, 300))
def test_the_longest_waiting_prompt_always_gets_half(remaining: list[int], budget: int) -> None:
    assert share_budget(remaining, budget)[0] >= min(remaining[0], budget / 2)


def test_a_short_prompt_overtakes_a_long_one() -> None:
    assert share_budget([1000, 900, 20], 128) == [64, 44, 20]


@given(PROMPTS)
def test_every_chunk_is_in_one_group_and_padding_at_most_doubles(lengths: list[int]) -> None:
    groups = group_by_length(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert max(lengths[index] for index in group) <= 2 * min(lengths[index] for index in group)


def test_rows_without_a_share_are_left_out() -> None:
    assert group_by_length([0, 8, 0]) == [[1]]


@dataclass
class Row:
    slot: int
    num_waiting: int
    is_scored: bool = False


def test_who_waits_for_another_takes_no_part_and_lends_it_its_place() -> None:
    rows = [Row(0, 90), Row(1, 50), Row(2, 100), Row(3, 0)]
    assert planned(rows, 40, 100, {0: 2}) == [Pass([3], [1]), Pass([2, 1], [20, 20])]
    assert planned(rows, 40, 100, {0: 1, 1: 2}) == [Pass([3], [1]), Pass([2], [40])]


def test_who_is_waited_for_is_as_near_to_its_first_token_as_who_waits() -> None:
    rows = [Row(0, 3000), Row(1, 10000), Row(2, 1520), Row(3, 2000)]
    assert planned(rows, 256, 10_000, {2: 1}) == [Pass([0, 1], [128, 128])]
    assert planned(rows, 256, 10_000) == [Pass([0, 2], [128, 128])]
