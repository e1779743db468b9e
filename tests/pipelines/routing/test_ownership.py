"""Whose a name is: everyone finds the same owner, and few names move when a replica comes or goes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.routing.ownership import Owners, weight
from tests.pipelines.routing.fleet import owner

NAMES = st.text(max_size=80)
REPLICAS = st.lists(st.text(max_size=12), min_size=1, max_size=8, unique=True)


@given(NAMES, REPLICAS, st.randoms())
def test_a_names_owner_is_one_of_the_replicas_in_whatever_order_they_are_seen(
    name: str, replicas: list[str], order: object
) -> None:
    shuffled = sorted(replicas, key=lambda replica: order.random())  # type: ignore[attr-defined]
    assert owner(name, replicas) == owner(name, shuffled)
    assert owner(name, replicas) in replicas


@given(NAMES, REPLICAS, st.text(max_size=12))
def test_a_replica_that_comes_takes_names_for_itself_alone(name: str, replicas: list[str], new: str) -> None:
    before, after = owner(name, replicas), owner(name, {*replicas, new})
    assert after in (before, new)


@given(NAMES, REPLICAS, st.data())
def test_a_replica_that_goes_moves_only_its_own_names(name: str, replicas: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(replicas))
    left = [replica for replica in replicas if replica != gone]
    if left and owner(name, replicas) != gone:
        assert owner(name, left) == owner(name, replicas)


@pytest.mark.parametrize("replicas", [2, 3, 7])
def test_every_replica_owns_about_as_many_names(replicas: int) -> None:
    """Of 6000 names, each within five standard deviations of an equal part."""
    owned = Counter(owner(f"name {n}", [f"replica {r}" for r in range(replicas)]) for n in range(6000))
    equal = 6000 / replicas
    assert all(0.85 * equal < owned[f"replica {r}"] < 1.15 * equal for r in range(replicas))


def test_what_a_replica_owned_goes_to_all_others() -> None:
    replicas = [f"replica {r}" for r in range(4)]
    names = [name for name in (f"name {n}" for n in range(4000)) if owner(name, replicas) == "replica 0"]
    heirs = Counter(owner(name, replicas[1:]) for name in names)
    assert all(count > len(names) / 5 for count in heirs.values())
    assert len(heirs) == 3


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20, unique=True))
def test_many_replicas_are_weighed_as_one_is(name: int, seeds: list[int]) -> None:
    own = Owners(seeds)
    assert own.weights(name).tolist() == [weight(name, seed) for seed in seeds]
    best = sorted(range(len(seeds)), key=lambda at: -weight(name, seeds[at]))
    assert list(own.of(name, 2)) == best[:2]
    assert list(own.of(name)) == best[:1]
