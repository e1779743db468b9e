"""Which slot a request gets, and what of it is already known."""

from hypothesis import given
from hypothesis import strategies as st

from stages.llm.model.prefix import Occupant, Placement, SlotBook, common_prefix


def occupant(tokens: list[int], salt: str = "a", images: tuple[tuple[int, int, str], ...] = (), computed: int = 0) -> Occupant:
    return Occupant(salt, list(tokens), images, computed)


def leave(book: SlotBook, one: Occupant, computed: int | None = None) -> int:
    """`one` comes, has its tokens computed, and goes. Its slot."""
    slot = book.place(one).slot
    one.num_computed = len(one.tokens) if computed is None else computed
    book.release(slot)
    return slot


def test_a_conversation_goes_on_in_its_own_slot() -> None:
    book = SlotBook(3)
    leave(book, occupant([9, 9, 9]))
    slot = leave(book, occupant([1, 2, 3, 4]))
    assert book.place(occupant([1, 2, 3, 4, 5, 6])) == Placement(slot, num_reused=4)


def test_a_mere_shared_beginning_is_copied_so_that_both_remain() -> None:
    book = SlotBook(2)
    slot = leave(book, occupant([1, 2, *range(10, 30)]))
    placement = book.place(occupant([1, 2, 3, 4]))
    assert placement == Placement(1 - slot, num_reused=2, copy_from=slot)


def test_a_running_requests_prefix_is_copied() -> None:
    book = SlotBook(2)
    running = occupant([1, 2, 3, 4, 5])
    slot = book.place(running).slot
    running.num_computed = 3
    assert book.place(occupant([1, 2, 3, 4, 5])) == Placement(1 - slot, num_reused=3, copy_from=slot)


def test_the_only_free_slot_is_reused_in_place() -> None:
    book = SlotBook(1)
    slot = leave(book, occupant([1, 2, *range(10, 30)]))
    assert book.place(occupant([1, 2, 3])) == Placement(slot, num_reused=2)


def test_the_last_token_is_always_computed() -> None:
    book = SlotBook(1)
    leave(book, occupant([1, 2, 3]))
    assert book.place(occupant([1, 2, 3])).num_reused == 2


def test_nothing_is_shared_between_salts() -> None:
    book = SlotBook(2)
    leave(book, occupant([1, 2, 3, 4], salt="a"))
    assert book.place(occupant([1, 2, 3, 4], salt="b")).num_reused == 0


def test_tokens_that_were_not_computed_are_not_reused() -> None:
    book = SlotBook(1)
    leave(book, occupant([1, 2, 3, 4]), computed=2)
    assert book.place(occupant([1, 2, 3, 4])).num_reused == 2


def test_what_cannot_be_trusted_is_forgotten() -> None:
    book = SlotBook(1)
    slot = leave(book, occupant([1, 2, 3, 4]))
    book.forget(slot)
    assert book.place(occupant([1, 2, 3, 4])).num_reused == 0


def test_the_slot_freed_longest_ago_is_given_away_first() -> None:
    book = SlotBook(3)
    slots = [book.place(occupant([token])).slot for token in (1, 2, 3)]
    for slot in (slots[1], slots[0], slots[2]):
        book.release(slot)
    assert [book.place(occupant([token])).slot for token in (4, 5, 6)] == [slots[1], slots[0], slots[2]]


def test_the_same_placeholders_of_another_picture_are_not_the_same() -> None:
    tokens = [1, 7, 7, 7, 2, 3]
    ours = occupant(tokens, images=((1, 3, "cat"),), computed=6)
    assert common_prefix(occupant(tokens, images=((1, 3, "cat"),)), ours) == 5
    assert common_prefix(occupant(tokens, images=((1, 3, "dog"),)), ours) == 1
    assert common_prefix(occupant(tokens), ours) == 1


REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.sampled_from("ab"), st.booleans()), max_size=25
)


@given(REQUESTS, st.integers(1, 4))
def test_whatever_comes_slots_are_never_shared_and_reuse_is_always_true(
    requests: list[tuple[list[int], str, bool]], num_slots: int
) -> None:
    book = SlotBook(num_slots)
    held: dict[int, tuple[str, list[int]]] = {}  # what each slot really holds
    running: list[int] = []
    for tokens, salt, stays in requests:
        if not book.num_free:
            book.release(running.pop(0))
        newcomer = occupant(tokens, salt)
        placement = book.place(newcomer)
        assert placement.slot not in running
        source = placement.slot if placement.copy_from is None else placement.copy_from
        if placement.num_reused:
            assert held[source][0] == salt
            assert held[source][1][: placement.num_reused] == tokens[: placement.num_reused]
        newcomer.num_computed = len(tokens)
        held[placement.slot] = (salt, tokens)
        running.append(placement.slot)
        if not stays:
            book.release(running.pop())
        book.check_integrity()
        assert book.num_free == num_slots - len(running)
