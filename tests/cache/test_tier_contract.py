"""What every tier promises (`cache/tier.py`), asked of memory, of Redis on a unix socket and over TCP, and of one that only tests know."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from cache.codec import BFLOAT16, size_of
from cache.finite import is_finite
from cache.memory import MemoryTier
from cache.redis.redis_tier import RedisTier
from cache.tier import UNLABELLED, Label, Tier
from tests.cache.folder_tier import FolderTier
from tests.cache.values import floats, same, values

MiB = 2**20


MAKERS: dict[str, Callable[[pytest.FixtureRequest], Tier]] = {
    "memory": lambda request: MemoryTier(64 * MiB),
    "redis over unix": lambda request: RedisTier(request.getfixturevalue("embedded_url"), namespace=request.node.name),
    "redis over tcp": lambda request: RedisTier(request.getfixturevalue("tcp_url"), namespace=request.node.name),
    "a folder": lambda request: FolderTier(request.getfixturevalue("tmp_path")),
}


@pytest.fixture(params=list(MAKERS))
def tier(request: pytest.FixtureRequest) -> Iterator[Tier]:
    made = MAKERS[request.param](request)
    yield made
    made.close()


def settle(tier: Tier) -> None:
    """A value put may be found a little later: not before this returns, but certainly then."""
    if isinstance(tier, RedisTier):
        assert tier.flush(30)


def put(tier: Tier, **stored: dict[str, NDArray[Any]]) -> None:
    tier.put_many(stored)
    settle(tier)


A: dict[str, NDArray[Any]] = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "mask": np.array([True, False])}
B: dict[str, NDArray[Any]] = {"y": np.array(7, dtype=np.int64)}


def test_what_was_put_is_found_to_the_bit(tier: Tier) -> None:
    put(tier, a=A, b=B)
    found = tier.get_many(["b", "a"])
    assert set(found) == {"a", "b"}
    assert same(found["a"], A)
    assert same(found["b"], B)


def test_features_of_a_llava_image_fit_in_their_own_dtype(tier: Tier) -> None:
    bits = np.random.default_rng(1).integers(0, 0x7F80, (576, 4096), dtype=np.uint16)
    features = {"features": bits.view(BFLOAT16)}
    put(tier, features=features)
    assert same(tier.get_many(["features"])["features"], features)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values)
def test_any_numeric_value_is_kept_and_none_that_has_no_number_in_it(tier: Tier, value: dict[str, NDArray[Any]]) -> None:
    tier.delete(["any"])
    put(tier, any=value)
    found = tier.get_many(["any"])
    assert same(found["any"], value) if is_finite(value) else found == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_nan_is_never_kept_and_counted_as_an_error(tier: Tier, bad: float) -> None:
    put(tier, a={"x": np.array([1, bad, 2], np.float16)})
    assert tier.get_many(["a"]) == {}
    assert (tier.stats().puts, tier.stats().errors, tier.stats().dropped) == (0, 1, 0)


def test_what_was_never_put_is_a_miss(tier: Tier) -> None:
    put(tier, a=A)
    assert set(tier.get_many(["a", "nothing", "neither"])) == {"a"}
    assert tier.get_many([]) == {}


def test_hits_and_misses_are_counted_once_a_key(tier: Tier) -> None:
    put(tier, a=A)
    tier.get_many(["a", "nothing", "a", "nothing", "neither"])
    stats = tier.stats()
    assert (stats.hits, stats.misses, stats.puts) == (1, 2, 1)
    assert (stats.errors, stats.corrupt, stats.dropped) == (0, 0, 0)


def test_what_was_put_under_another_seal_is_not_there(tier: Tier) -> None:
    ours, theirs = Label("features", "ours"), Label("features", "theirs")
    for label in (ours, UNLABELLED):
        tier.put_many({"a": A}, ours)
        settle(tier)
        assert tier.get_many(["a"], theirs if label is ours else UNLABELLED) == {}
        tier.put_many({"b": A})
        settle(tier)
        assert tier.get_many(["b"], ours) == {}
    tier.put_many({"a": A}, ours)
    settle(tier)
    assert same(tier.get_many(["a"], ours)["a"], A)


def test_each_kind_is_counted_apart(tier: Tier) -> None:
    tier.put_many({"a": A, "b": B}, Label("features"))
    tier.put_many({"c": A}, Label("pages", "seal"))
    settle(tier)
    tier.get_many(["a", "nothing"], Label("features"))
    tier.get_many(["c", "d"], Label("pages", "seal"))
    tier.get_many(["a"])
    kinds = tier.stats().kinds
    assert set(kinds) == {"features", "pages"}
    assert (kinds["features"].hits, kinds["features"].misses) == (1, 1)
    assert (kinds["features"].puts, kinds["features"].put_bytes) == (2, size_of(A) + size_of(B))
    assert (kinds["pages"].hits, kinds["pages"].misses, kinds["pages"].puts) == (1, 1, 1)
    assert (tier.stats().hits, tier.stats().misses, tier.stats().puts) == (3, 2, 3)


def test_putting_again_replaces(tier: Tier) -> None:
    put(tier, a=A)
    put(tier, a=B)
    assert same(tier.get_many(["a"])["a"], B)


def test_deleting_forgets_and_unknown_keys_are_fine(tier: Tier) -> None:
    put(tier, a=A, b=B)
    tier.delete(["a", "nothing"])
    settle(tier)
    assert set(tier.get_many(["a", "b"])) == {"b"}


def test_a_delete_after_a_put_wins(tier: Tier) -> None:
    for _ in range(50):
        tier.put_many({"a": A})
        tier.delete(["a"])
    settle(tier)
    assert tier.get_many(["a"]) == {}


def test_found_arrays_cannot_be_changed(tier: Tier) -> None:
    put(tier, a=A)
    array = tier.get_many(["a"])["a"]["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 5


def test_changing_the_arrays_after_putting_them_changes_nothing(tier: Tier) -> None:
    mine = np.zeros(1000, np.float32)
    view = mine[:500]
    view.flags.writeable = False
    tier.put_many({"mine": {"x": mine}, "view": {"x": view}})
    mine[:] = 9
    settle(tier)
    found = tier.get_many(["mine", "view"])
    assert not found["mine"]["x"].any()
    assert not found["view"]["x"].any()


def test_changing_the_mapping_that_was_found_or_put_changes_nothing(tier: Tier) -> None:
    mine = dict(A)
    put(tier, a=mine)
    mine.clear()
    found = tier.get_many(["a"])["a"]
    found.clear()  # type: ignore[attr-defined]
    assert same(tier.get_many(["a"])["a"], A)


def test_found_arrays_outlive_their_entry(tier: Tier) -> None:
    put(tier, a=A)
    found = tier.get_many(["a"])["a"]
    tier.delete(["a"])
    settle(tier)
    assert same(found, A)


def test_what_cannot_be_stored_is_an_error_in_the_counters_only(tier: Tier) -> None:
    put(tier, words={"x": np.array(["a"])}, a=A)
    assert set(tier.get_many(["words", "a"])) == {"a"}
    assert (tier.stats().errors, tier.stats().puts) == (1, 1)


def test_many_keys_are_found_at_once(tier: Tier) -> None:
    put(tier, **{f"k{number}": {"x": floats(64, number)} for number in range(300)})
    found = tier.get_many([f"k{number}" for number in range(310)])
    assert [float(found[f"k{number}"]["x"][0]) for number in range(300)] == list(range(300))
    assert len(found) == 300


def test_the_tier_says_what_it_holds(tier: Tier) -> None:
    before = tier.stats()
    put(tier, a={"x": floats(MiB)}, b=B)
    after = tier.stats()
    assert after.entries == before.entries + 2
    assert after.bytes >= before.bytes + MiB


def test_after_closing_everything_is_a_miss_and_nothing_fails(tier: Tier) -> None:
    put(tier, a=A)
    tier.close()
    tier.put_many({"b": B})
    tier.delete(["a"])
    assert tier.get_many(["a", "b"]) == {}
    assert (tier.stats().misses, tier.stats().dropped) == (2, 1)
    tier.close()


def test_many_threads_may_use_it_at_once(tier: Tier) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for step in range(30):
            key = str((number * 7 + step) % 10)
            tier.put_many({key: {"x": floats(4000, float(key))}})
            wrong.extend(
                found for found, value in tier.get_many(list("0123456789")).items() if (value["x"] != float(found)).any()
            )
            tier.delete([str(step % 10)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert tier.stats().errors == 0
