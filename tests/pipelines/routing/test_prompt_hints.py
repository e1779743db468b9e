"""Prompts that begin alike have hints in common, and no others do."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.prompt_hints import BLOCK_TOKENS, MAX_BLOCKS, prompt_hints

TOKENS = st.lists(st.integers(0, 3), max_size=4 * BLOCK_TOKENS)


@given(TOKENS, TOKENS)
def test_two_prompts_have_as_many_hints_in_common_as_blocks_that_they_begin_with(one: list[int], other: list[int]) -> None:
    common = 0
    while common < min(len(one), len(other)) and one[common] == other[common]:
        common += 1
    hints, others = prompt_hints("salt", one), prompt_hints("salt", other)
    blocks = common // BLOCK_TOKENS
    assert hints[:blocks] == others[:blocks]
    assert not set(hints[blocks:]) & set(others[blocks:])
    assert len(hints) == len(one) // BLOCK_TOKENS


@given(TOKENS)
def test_a_prompt_that_goes_on_keeps_its_hints(tokens: list[int]) -> None:
    longer = prompt_hints("salt", [*tokens, *range(3 * BLOCK_TOKENS)])
    assert longer[: len(tokens) // BLOCK_TOKENS] == prompt_hints("salt", tokens)


def test_another_salt_or_another_image_has_other_hints_from_there_on() -> None:
    tokens = [7] * 4 * BLOCK_TOKENS
    plain = prompt_hints("salt", tokens)
    assert not set(plain) & set(prompt_hints("other salt", tokens))
    cat, dog = (prompt_hints("salt", tokens, [(BLOCK_TOKENS + 3, 10, name)]) for name in ("cat", "dog"))
    assert cat[0] == dog[0] == plain[0]
    assert not set(cat[1:]) & set(dog[1:])
    moved = prompt_hints("salt", tokens, [(BLOCK_TOKENS + 4, 10, "cat")])
    assert not set(cat[1:]) & set(moved[1:])


def test_a_very_long_prompt_has_a_bounded_number() -> None:
    assert len(prompt_hints("salt", [1] * 2 * MAX_BLOCKS * BLOCK_TOKENS)) == MAX_BLOCKS
