"""What a stage tells whoever routes to it: its load, how much of its latest items it failed, and which names are at hand there."""

from collections.abc import Collection, Sequence

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.contract.engine import EngineIdentity, Load
from stages.contract.errors import Broken, DeadlineExceeded, InvalidRequest, StageFailed, TriptychError
from stages.contract.item import Item
from stages.contract.news import Hints, hint, sparse
from stages.contract.recipe import Recipe
from stages.contract.work import Work
from stages.host.host import StageHost
from stages.host.remembered.origin import remembered_as
from stages.host.telling import FORGIVEN_S, LOOKED_FOR_S, MAX_HINTS, Telling
from tests.stages.fakes import Add, Adder, CountFrom


class Idle:
    """As much of an engine as is asked."""

    identity = EngineIdentity("m.stage", "cpu", "r", "float32")

    def load(self) -> Load:
        return Load(1, 2, 0.5, Work(30.0, 3.0))


class Memory:
    """Of one maker a stage, and all that was ever put there, but for what is dropped."""

    def __init__(self, *, remembers: bool = True) -> None:
        self.remembers = remembers
        self.dropped: set[str] = set()

    def keys_of(self, stage: str, name: str) -> Sequence[str]:
        return [f"{stage}/{name}"] if self.remembers else []

    def of(self, keys: Sequence[str]) -> Collection[str]:
        return set(keys) - self.dropped


def telling(memory: Memory | None = None) -> Telling:
    return Telling(Idle(), "r", memory or Memory())  # type: ignore[arg-type]


def held(told: Telling) -> Collection[int]:
    return told.news(0.0).holds


def test_the_engines_load_is_told_as_it_is_and_later_news_has_a_higher_number() -> None:
    told = telling()
    first, second = told.news(0.0), told.news(0.0)
    assert (first.stage, first.replica, first.num_items, first.outstanding) == ("m.stage", "r", 3, Work(30.0, 3.0))
    assert first.number < second.number


def test_a_result_that_was_made_or_found_is_at_hand() -> None:
    told = telling()
    told.ended(Item("i", Add(1), "name"), 0.0)
    told.ended(Item("i", Add(1)), 0.0)
    told.ended(Item("i", Add(1), "failed"), 0.0, StageFailed("bad luck"))
    assert held(told) == {hint("name")}


def test_where_nothing_is_remembered_no_result_is_at_hand() -> None:
    told = telling(Memory(remembers=False))
    told.ended(Item("i", Add(1), "name"), 0.0)
    assert not held(told)


def test_of_a_row_its_beginnings_and_what_it_needed_are_at_hand() -> None:
    told, chain = telling(), tuple(range(100))
    told.began(Item("i", CountFrom(1, plus=(Recipe("n", "m.adder", Add(1)),)), hints=Hints(chain, Work(1.0))), 0.0)
    assert held(told) == {*sparse(chain), hint("n")}


def test_beginnings_that_are_kept_by_name_are_told_once_they_are_kept_and_not_before() -> None:
    told, hints = telling(), Hints((hint("state 4"),), Work(1.0), lengths=(4,), is_kept_by_name=True)
    told.began(Item("i", CountFrom(1), hints=hints), 0.0)
    assert not held(told)
    told.kept({"state 4": "key of state 4"}, 0.0)
    assert held(told) == {hint("state 4")}


def test_what_memory_has_dropped_is_told_no_more_and_what_it_never_looks_after_is() -> None:
    memory, chain = Memory(), tuple(range(4))
    told = telling(memory)
    told.began(Item("i", CountFrom(1, plus=(Recipe("part", "m.adder", Add(1)),)), hints=Hints(chain, Work(1.0))), 0.0)
    told.ended(Item("i", Add(1), "result"), 0.0)
    told.ended(Item("i", Add(1), "other"), 0.0)
    told.kept({"page": "page"}, 0.0)
    memory.dropped |= {"m.adder/part", "m.stage/result", "page"}
    assert told.news(2 * LOOKED_FOR_S).holds == {*chain[:2], chain[3], hint("other")}
    told.ended(Item("i", Add(1), "result"), 2 * LOOKED_FOR_S)
    assert hint("result") in told.news(2.5 * LOOKED_FOR_S).holds  # it may be on its way to memory
    assert hint("result") not in told.news(4 * LOOKED_FOR_S).holds


@pytest.mark.parametrize("tiers", [0, 1])
async def test_a_host_tells_of_a_result_only_as_long_as_its_memory_has_it(tiers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.host.telling.LOOKED_FOR_S", 0.0)
    memory = MemoryTier(2**20)
    host = StageHost(cache=TieredCache([memory] * tiers))
    host.add("m.adder", Adder())
    reply = await host.call("m.adder", Item("i", Add(1), "name"))
    await host.settled()
    assert reply.origin is not None
    assert host.news()[0].holds == ({hint("name")} if tiers else set())
    memory.delete([remembered_as("name", reply.origin)])
    assert not host.news()[0].holds
    await host.close()


@pytest.mark.parametrize("length", [1, 2, 3, 8, 94, 256])
def test_what_stands_for_a_chain_finds_at_least_half_of_what_two_have_in_common(length: int) -> None:
    chain = tuple(range(length))
    for common in range(1, length + 1):
        deepest = max((at + 1 for at in range(common) if chain[at] in sparse(chain)), default=0)
        assert 2 * deepest > common
    assert chain[-1] in sparse(chain)
    assert len(sparse(chain)) <= 2 + length.bit_length()


def test_the_latest_names_are_told_and_no_more_than_fit() -> None:
    told = telling()
    for number in range(2 * MAX_HINTS):
        told.ended(Item("i", Add(1), "kept"), 0.0)
        told.ended(Item("i", Add(1), f"name {number}"), 0.0)
    assert len(held(told)) == MAX_HINTS
    assert {hint("kept"), hint(f"name {2 * MAX_HINTS - 1}")} <= set(held(told))
    assert hint("name 0") not in held(told)


@pytest.mark.parametrize("error", [StageFailed("bad luck"), Broken("its device broke")])
def test_a_replica_that_fails_its_items_says_so_until_it_does_them_well_again(error: TriptychError) -> None:
    told = telling()
    for _ in range(20):
        told.ended(Item("i", Add(1)), 0.0, error)
    assert told.news(0.0).failing > 0.9
    for _ in range(20):
        told.ended(Item("i", Add(1)), 0.0)
    assert told.news(0.0).failing < 0.05


def test_a_replica_that_gets_nothing_because_it_failed_is_trusted_again_after_a_while() -> None:
    told = telling()
    for _ in range(20):
        told.ended(Item("i", Add(1)), 0.0, StageFailed("bad luck"))
    assert told.news(FORGIVEN_S).failing == pytest.approx(0.5, abs=0.02)
    assert told.news(20 * FORGIVEN_S).failing == 0


@pytest.mark.parametrize("error", [InvalidRequest("it asks for too much"), DeadlineExceeded("its time is up")])
def test_what_a_request_is_to_blame_for_is_no_failure_of_the_replica(error: TriptychError) -> None:
    told = telling()
    told.ended(Item("i", Add(1)), 0.0, error)
    assert told.news(0.0).failing == 0


@pytest.mark.parametrize(("stages", "threads", "is_shared"), [(1, 2, False), (2, 2, True), (2, 1, False)])
async def test_stages_of_one_process_say_whether_they_make_one_another_slower(
    stages: int, threads: int, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.host.host.available_cores", lambda: 2)
    host = StageHost(torch_threads=threads)
    for number in range(stages):
        host.add(f"m.adder{number}", Adder())
    assert [one.is_shared for one in host.news()] == [is_shared] * stages
    await host.close()
