"""Which slot a request gets, and what of it is already known."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stages.llm.model.slot_table import Placement, SlotContents, SlotImage, SlotTable, common_prefix, num_equal
from stages.llm.pages.naming import PageNaming


def contents(tokens: list[int], salt: str = "a", images: tuple[SlotImage, ...] = (), computed: int = 0) -> SlotContents:
    return SlotContents(salt, list(tokens), images, computed)


def place(table: SlotTable, one: SlotContents) -> Placement:
    placement = table.find(one)
    assert table.num_reusable(one) == placement.num_reused
    table.take(one, placement)
    return placement


def leave(table: SlotTable, one: SlotContents, computed: int | None = None) -> int:
    """`one` comes, has its tokens computed, and goes. Its slot."""
    slot = place(table, one).slot
    one.num_computed = len(one.tokens) if computed is None else computed
    table.advance(slot)
    table.release(slot)
    return slot


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    table = SlotTable(3)
    leave(table, contents([9, 9, 9]))
    slot = leave(table, contents([1, 2, 3, 4]))
    assert place(table, contents([1, 2, 3, 4, 5, 6])) == Placement(slot, num_reused=4)


def test_a_mere_shared_beginning_is_copied_so_that_both_remain() -> None:
    table = SlotTable(2)
    slot = leave(table, contents([1, 2, *range(10, 30)]))
    placement = place(table, contents([1, 2, 3, 4]))
    assert placement == Placement(1 - slot, num_reused=2, copy_from=slot)


def test_a_running_requests_prefix_is_copied() -> None:
    table = SlotTable(2)
    running = contents([1, 2, 3, 4, 5])
    slot = place(table, running).slot
    running.num_computed = 3
    assert place(table, contents([1, 2, 3, 4, 5])) == Placement(1 - slot, num_reused=3, copy_from=slot)


def test_the_only_free_slot_is_reused_in_place() -> None:
    table = SlotTable(1)
    slot = leave(table, contents([1, 2, *range(10, 30)]))
    assert place(table, contents([1, 2, 3])) == Placement(slot, num_reused=2)


def test_the_last_token_is_always_computed() -> None:
    table = SlotTable(1)
    leave(table, contents([1, 2, 3]))
    assert place(table, contents([1, 2, 3])).num_reused == 2


def test_nothing_is_shared_between_salts() -> None:
    table = SlotTable(2)
    leave(table, contents([1, 2, 3, 4], salt="a"))
    assert place(table, contents([1, 2, 3, 4], salt="b")).num_reused == 0


def test_tokens_that_were_not_computed_are_not_reused() -> None:
    table = SlotTable(1)
    leave(table, contents([1, 2, 3, 4]), computed=2)
    assert place(table, contents([1, 2, 3, 4])).num_reused == 2


def test_what_cannot_be_trusted_is_forgotten() -> None:
    table = SlotTable(1)
    slot = leave(table, contents([1, 2, 3, 4]))
    table.forget(slot)
    assert place(table, contents([1, 2, 3, 4])).num_reused == 0


def test_the_slot_freed_longest_ago_is_given_away_first() -> None:
    table = SlotTable(3)
    slots = [place(table, contents([token])).slot for token in (1, 2, 3)]
    for slot in (slots[1], slots[0], slots[2]):
        table.release(slot)
    assert [place(table, contents([token])).slot for token in (4, 5, 6)] == [slots[1], slots[0], slots[2]]


def test_the_same_placeholders_of_another_image_are_not_the_same() -> None:
    tokens = [1, 7, 7, 7, 2, 3]
    ours = contents(tokens, images=(SlotImage(1, 3, "cat"),), computed=6)
    assert common_prefix(contents(tokens, images=(SlotImage(1, 3, "cat"),)), ours) == 5
    assert common_prefix(contents(tokens, images=(SlotImage(1, 3, "dog"),)), ours) == 1
    assert common_prefix(contents(tokens), ours) == 1


def test_an_image_is_the_same_whether_or_not_its_grid_is_known() -> None:
    tokens = [1, 7, 7, 7, 2, 3]
    held = contents(tokens, images=(SlotImage(1, 3, "cat", (1, 6, 2)),), computed=6)
    assert common_prefix(contents(tokens, images=(SlotImage(1, 3, "cat"),)), held) == 5


@given(st.lists(st.integers(0, 1), max_size=600), st.lists(st.integers(0, 1), max_size=20), st.integers(0, 600))
def test_the_common_beginning_is_found_to_the_token(tokens: list[int], others: list[int], cut: int) -> None:
    ours, theirs = [*tokens, 9], [*tokens[:cut], *others]
    expected = next((at for at, (our, their) in enumerate(zip(ours, theirs, strict=False)) if our != their), len(theirs))
    expected = min(expected, len(ours) - 1, len(theirs))
    assert common_prefix(contents(ours), contents(theirs, computed=len(theirs))) == expected


def test_what_a_slot_holds_of_images_is_told_by_name_with_their_grids() -> None:
    table = SlotTable(2)
    assert not table.resident_names()
    cat, dog = SlotImage(1, 2, "cat", (1, 4, 2)), SlotImage(4, 2, "dog", (1, 2, 4))
    one = contents([1, 7, 7, 2, 7, 7, 3], images=(cat, dog))
    place(table, one)
    assert not table.resident_names()
    assert table.grid_of("cat") is None
    one.num_computed = 5
    assert table.resident_names() == {"cat"}
    assert (table.grid_of("cat"), table.grid_of("dog")) == ((1, 4, 2), None)
    one.num_computed = 7
    assert table.resident_names() == {"cat", "dog"}


def test_to_look_for_a_slot_takes_none() -> None:
    table = SlotTable(1)
    slot = leave(table, contents([1, 2, 3, 4]))
    newcomer = contents([1, 2, 3, 9])
    assert [table.find(newcomer) for _ in range(2)] == [Placement(slot, 3)] * 2
    assert (table.num_free, newcomer.num_computed) == (1, 0)


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.sampled_from("ab"), st.booleans()), max_size=25
)


@given(REQUESTS, st.integers(1, 4), st.integers(1, 3))
def test_whatever_comes_slots_are_never_shared_and_reuse_is_always_true(
    requests: list[tuple[list[int], str, bool]], num_slots: int, page_tokens: int
) -> None:
    table = SlotTable(num_slots, PageNaming(page_tokens))
    held: dict[int, tuple[str, list[int]]] = {}  # what each slot really holds
    running: list[int] = []
    for tokens, salt, stays in requests:
        if not table.num_free:
            table.release(running.pop(0))
        newcomer = contents(tokens, salt)
        placement = place(table, newcomer)
        assert placement.slot not in running
        source = placement.slot if placement.copy_from is None else placement.copy_from
        if placement.num_reused:
            assert held[source][0] == salt
            assert held[source][1][: placement.num_reused] == tokens[: placement.num_reused]
        newcomer.num_computed = len(tokens)
        table.advance(placement.slot)
        held[placement.slot] = (salt, tokens)
        running.append(placement.slot)
        if not stays:
            table.release(running.pop())
        table.check_integrity()
        assert table.num_free == num_slots - len(running)


class CountedTokens(list[int]):
    """Counts how many of them are looked at."""

    num_read = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        CountedTokens.num_read += len(found) if isinstance(index, slice) else 1
        return found


def test_what_is_compared_does_not_grow_with_what_slots_share() -> None:
    """256 slots that share 8,000 tokens: less than a page of tokens each, instead of two million."""
    table, source = SlotTable(256), random.Random(0)
    shared = [source.randrange(50_000) for _ in range(8_000)]
    for slot in range(256):
        held = contents([*shared, *([7] * (slot % 60)), 9])
        table.take(held, Placement(slot), num_given=len(held.tokens))
    one = contents([*shared, *([7] * 63), 9])
    one.tokens = CountedTokens(one.tokens)
    table.num_reusable(one)  # names its pages, which is done once
    CountedTokens.num_read = 0
    assert table.num_reusable(one) == 8_000 + 59
    assert CountedTokens.num_read < 256 * 64


IMAGES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["cat", "dog"])), max_size=2)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(0, 12), IMAGES), min_size=1, max_size=6
    ),
    st.integers(1, 5),
)
def test_the_longest_beginning_that_any_slot_holds_is_found(
    texts: list[tuple[list[int], int, list[tuple[int, str]]]], page_tokens: int
) -> None:
    table = SlotTable(len(texts), PageNaming(page_tokens))
    made = [
        contents(tokens, images=tuple(sorted({SlotImage(at, 1, name) for at, name in images if at < len(tokens)}, key=str)))
        for tokens, _, images in texts
    ]
    for slot, (one, (tokens, computed, _)) in enumerate(zip(made, texts, strict=True)):
        table.take(one, Placement(slot))
        one.num_computed = min(computed, len(tokens))
        table.advance(slot)
        table.check_integrity()
    for one in made:
        newcomer = contents(one.tokens, images=one.images)
        assert table.num_reusable(newcomer) == max(common_prefix(newcomer, held) for held in made)


def test_a_name_is_forgotten_with_the_last_slot_that_holds_it() -> None:
    table = SlotTable(2, PageNaming(2))
    for _ in range(2):
        place(table, contents([1, 2, 3, 4], computed=4))
    for slot in range(2):
        table.forget(slot)
        table.check_integrity()
    assert table._holders == {}


PAGE = 4


def beginning_alike(table: SlotTable, *all_tokens: list[int], salt: str = "a") -> list[SlotContents]:
    found = [contents(tokens, salt) for tokens in all_tokens]
    for one in found:
        place(table, one)
    return found


def test_who_computes_most_of_a_newcomers_beginning_is_found_in_whole_pages() -> None:
    table = SlotTable(4, PageNaming(PAGE))
    beginning_alike(table, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [9, 9, 9, 9, 9])
    newcomer = contents([1, 2, 3, 4, 5, 6, 7, 8, 9, 11])
    slot = place(table, newcomer).slot
    assert table.in_the_making(slot, newcomer) == Placement(1, 8)


def test_the_last_token_is_nobody_elses_affair() -> None:
    table = SlotTable(2, PageNaming(PAGE))
    beginning_alike(table, [1, 2, 3, 4, 5, 6, 7, 8])
    newcomer = contents([1, 2, 3, 4, 5, 6, 7, 8])
    assert table.in_the_making(place(table, newcomer).slot, newcomer) == Placement(0, 4)


def test_nobody_computes_anything_for_another_salt() -> None:
    table = SlotTable(3, PageNaming(PAGE))
    beginning_alike(table, [1, 2, 3, 4, 5, 6], salt="b")
    newcomer = contents([1, 2, 3, 4, 5, 7])
    assert table.in_the_making(place(table, newcomer).slot, newcomer) is None


def test_nobody_computes_anything_in_a_slot_that_is_free() -> None:
    table = SlotTable(3, PageNaming(PAGE))
    left, newcomer = contents([1, 2, 3, 4, 5, 6]), contents([1, 2, 3, 4, 5, 7])
    slot = place(table, left).slot
    own = place(table, newcomer).slot
    assert table.in_the_making(own, newcomer) == Placement(slot, PAGE)
    table.release(slot)
    assert table.in_the_making(own, newcomer) is None


@given(st.lists(st.sampled_from("ab"), max_size=9), st.lists(st.sampled_from("ab"), max_size=9))
def test_names_that_stand_for_all_before_them_are_compared_by_halves(ours: list[str], theirs: list[str]) -> None:
    chains = [["".join(one[: end + 1]) for end in range(len(one))] for one in (ours, theirs)]
    plainly = next((at for at, pair in enumerate(zip(*chains, strict=False)) if pair[0] != pair[1]), min(map(len, chains)))
    assert num_equal(*chains) == plainly
