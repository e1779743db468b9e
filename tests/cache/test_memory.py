"""What the memory tier promises beyond every tier's contract: the bound, the order of forgetting, what it copies."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.codec import decode, encode
from cache.memory import ENTRY_BYTES, MemoryTier
from tests.cache.values import floats

ENTRY = 1000 + ENTRY_BYTES


def test_the_least_recently_used_is_forgotten_first() -> None:
    tier = MemoryTier(3 * ENTRY)
    for key in "abc":
        tier.put_many({key: {"x": floats(1000)}})
    tier.get_many(["a"])
    tier.put_many({"d": {"x": floats(1000)}})
    assert set(tier.get_many(list("abcd"))) == {"a", "c", "d"}
    assert tier.stats().evictions == 1


@pytest.mark.parametrize("how", ["put", "got", "asked about"])
def test_of_what_is_used_together_the_end_is_forgotten_before_the_beginning(how: str) -> None:
    tier = MemoryTier(4 * ENTRY)
    for key in "abcd" if how != "put" else ():
        tier.put_many({key: {"x": floats(1000)}})
    if how == "put":
        tier.put_many({key: {"x": floats(1000)} for key in "abcd"})
    elif how == "got":
        tier.get_many(list("abcd"))
    else:
        tier.holds(list("abcd"))
    for number, left in enumerate(("abc", "ab", "a")):
        tier.put_many({f"new {number}": {"x": floats(1000)}})
        assert set(tier.get_many(["nothing", *"abcd"])) == set(left)
        tier.get_many([f"new {new}" for new in range(number + 1)])


def test_a_value_bigger_than_the_capacity_is_not_stored_and_forgets_nothing() -> None:
    tier = MemoryTier(2 * ENTRY)
    tier.put_many({"small": {"x": floats(1000)}, "big": {"x": floats(3000)}})
    assert set(tier.get_many(["small", "big"])) == {"small"}
    assert (tier.stats().dropped, tier.stats().evictions) == (1, 0)


def test_replacing_a_value_frees_the_old_one() -> None:
    tier = MemoryTier(10 * ENTRY)
    tier.put_many({"a": {"x": floats(4000)}})
    tier.put_many({"a": {"x": floats(1000)}})
    assert (tier.stats().bytes, tier.stats().entries) == (ENTRY, 1)


def test_without_capacity_nothing_is_kept() -> None:
    tier = MemoryTier(0)
    tier.put_many({"a": {"x": floats(4)}, "empty": {}})
    assert tier.get_many(["a", "empty"]) == {}
    assert tier.stats().dropped == 2


def test_a_negative_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity_bytes: -1"):
        MemoryTier(-1)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000), st.booleans()), max_size=40))
def test_the_bytes_held_never_exceed_the_capacity(operations: list[tuple[str, int, bool]]) -> None:
    tier = MemoryTier(4000)
    for key, size, forget in operations:
        tier.put_many({key: {"x": np.zeros(size, np.uint8)}})
        if forget:
            tier.delete([key])
        held = tier.get_many(list("abcdef"))
        stats = tier.stats()
        assert stats.bytes == sum(value["x"].nbytes + ENTRY_BYTES for value in held.values()) <= 4000
        assert stats.entries == len(held)


def test_one_row_of_a_batch_does_not_keep_the_batch_in_memory() -> None:
    batch = np.zeros((64, 1000), np.float32)
    batch.flags.writeable = False
    tier = MemoryTier(1_000_000)
    tier.put_many({"row": {"x": batch[3]}})
    assert not np.shares_memory(tier.get_many(["row"])["row"]["x"], batch)


def test_a_decoded_value_is_kept_without_a_copy() -> None:
    decoded = decode("k", encode("k", {"x": floats(40_000), "y": floats(40_000)}))
    tier = MemoryTier(1_000_000)
    tier.put_many({"k": decoded})
    assert np.shares_memory(tier.get_many(["k"])["k"]["x"], decoded["x"])


def test_one_array_out_of_a_large_decoded_value_is_copied() -> None:
    decoded = decode("k", encode("k", {"x": floats(40), "y": floats(400_000)}))
    tier = MemoryTier(1_000_000)
    tier.put_many({"k": {"x": decoded["x"]}})
    assert not np.shares_memory(tier.get_many(["k"])["k"]["x"], decoded["x"])


def test_values_survive_many_threads_at_once() -> None:
    tier = MemoryTier(8 * ENTRY)
    wrong: list[str] = []

    def work(number: int) -> None:
        for step in range(200):
            key = str((number + step) % 16)
            tier.put_many({key: {"x": floats(1000, float(key))}})
            for found, value in tier.get_many([str(other) for other in range(16)]).items():
                if not (value["x"] == float(found)).all():
                    wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tier.stats().bytes <= 8 * ENTRY
