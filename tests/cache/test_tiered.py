"""Several tiers as one: where a value is found, and where it is remembered next."""

from collections.abc import Sequence

from cache.codec import Arrays
from cache.memory import MemoryTier
from cache.tier import UNLABELLED, Label, Tier
from cache.tiered import TieredCache
from tests.cache.values import floats, same


class SlowerMemory(MemoryTier):
    """A second tier that is real, but told apart by its name, and tells what it was asked."""

    name = "slower"

    def __init__(self, capacity_bytes: int = 1_000_000) -> None:
        super().__init__(capacity_bytes)
        self.asked: list[list[str]] = []

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.asked.append(list(keys))
        return super().get_many(keys, label)


def both(upper_bytes: int = 1_000_000) -> tuple[MemoryTier, SlowerMemory, TieredCache]:
    upper, lower = MemoryTier(upper_bytes), SlowerMemory()
    tiers: list[Tier] = [upper, lower]
    return upper, lower, TieredCache(tiers)


A, B = {"x": floats(40, 1)}, {"x": floats(80, 2)}


def test_a_value_is_remembered_in_every_tier() -> None:
    upper, lower, cache = both()
    cache.put_many({"a": A, "b": B})
    assert set(upper.get_many(["a", "b"])) == set(lower.get_many(["a", "b"])) == {"a", "b"}


def test_the_upper_tier_answers_first_and_the_lower_is_not_asked() -> None:
    _, lower, cache = both()
    cache.put("a", A)
    found = cache.get("a")
    assert found is not None
    assert (found.tier, found.bytes, same(found.value, A)) == ("memory", 40, True)
    assert lower.asked == []


def test_only_what_is_missing_above_is_asked_below_in_one_call() -> None:
    upper, lower, cache = both()
    upper.put_many({"a": A})
    lower.put_many({"b": B})
    found = cache.get_many(["b", "nowhere", "a", "b"])
    assert lower.asked == [["b", "nowhere"]]
    assert [(key, value.tier) for key, value in found.items()] == [("b", "slower"), ("a", "memory")]


def test_what_is_found_below_is_remembered_above() -> None:
    _, lower, cache = both()
    lower.put_many({"a": A})
    tiers = [found.tier for found in (cache.get("a"), cache.get("a")) if found]
    assert tiers == ["slower", "memory"]


def test_a_value_too_big_for_the_upper_tier_is_found_below_every_time() -> None:
    _, _, cache = both(upper_bytes=100)
    cache.put("a", A)
    assert [found.tier for found in (cache.get("a"), cache.get("a")) if found] == ["slower", "slower"]


def test_a_forgotten_value_is_gone_from_every_tier() -> None:
    _, _, cache = both()
    cache.put("a", A)
    cache.delete(["a"])
    assert cache.get("a") is None


def test_the_counters_of_each_tier_are_told_apart() -> None:
    _, _, cache = both()
    cache.put("a", A)
    cache.get_many(["a", "b"])
    stats = cache.stats()
    assert (stats["memory"].hits, stats["memory"].misses, stats["slower"].misses) == (1, 1, 1)


def test_without_tiers_nothing_is_remembered_and_nothing_fails() -> None:
    cache = TieredCache()
    cache.put("a", A)
    assert cache.get_many(["a"]) == {}
    assert cache.stats() == {}
    cache.delete(["a"])
    cache.close()


def test_after_closing_everything_is_a_miss() -> None:
    _, _, cache = both()
    cache.put("a", A)
    cache.close()
    assert cache.get("a") is None
