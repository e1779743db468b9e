"""Pages that are late, lost, shared or too many: nobody fails for that, and nobody waits for long."""

import asyncio
from collections.abc import Sequence

import pytest

from cache.memory import MemoryTier
from cache.tier import UNLABELLED
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.errors import DeadlineExceeded, InvalidRequest, QueueFull
from stages.contract.item import Item
from stages.host.host import StageHost
from stages.host.pages.fetching import PageFetching, Wanted
from stages.host.pages.held import MAX_HELD_BYTES
from stages.host.remembered.cache_threads import READERS, CacheThreads
from stages.host.remembered.origin import remembered_as
from tests.stages.fakes import PATIENCE_S, Add, FarTier
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import plus
from tests.stages.host.pages.spelling import ORIGIN, TEXT, Far, Scene, Spelled
from tests.stages.paged import Letters, Spell, Speller


async def test_what_has_vanished_meanwhile_is_spelled(scene: Scene) -> None:
    scene.far.lies = True
    scene.put("ab")
    answer = await scene.spell()
    assert (answer.outcome, answer.text) == ((2, "redis", 2), TEXT)
    nothing = await scene.spell("xyz")
    assert (nothing.outcome, nothing.text) == ((0, "miss", 0), "xyz")
    assert (scene.count("page_fetches_failed_total"), scene.count("page_bytes_in_flight")) == (1, 0)


async def test_a_value_of_another_kind_is_forgotten_and_nobody_waits_for_that(scene: Scene) -> None:
    key = remembered_as(":ab", ORIGIN)
    scene.memory.put_many({key: {"strange": Letters.of_text("ab").codes}})
    scene.speller.export_gate.close()
    scene.far.put_gate.close()
    answer = await scene.spell("abc")
    assert (answer.outcome, answer.text) == ((0, "miss", 0), "abc")
    assert scene.memory.holds([key])
    scene.far.put_gate.open()
    await once(lambda: not scene.memory.holds([key]))


async def test_what_is_learned_of_a_fetch_is_what_came_and_what_did_not() -> None:
    far, seen = Far(), list[tuple[str, int, int]]()
    MemoryTier.put_many(far, {"a": Letters.of_text("ab").arrays()})
    threads = CacheThreads(TieredCache([far]), "pages")

    def observe(tier: str, num_bytes: int, num_missing: int, seconds: float) -> None:
        seen.append((tier, num_bytes, num_missing))

    fetching = PageFetching(threads)
    fetched = await fetching.fetch(Wanted({"redis": ["a", "b", "c"]}, UNLABELLED, "", observe), PATIENCE_S)
    await fetching.settled()
    assert (set(fetched.found), seen) == ({"a"}, [("redis", 2, 2)])
    await threads.close()


async def test_a_tier_that_raises_is_a_miss(scene: Scene) -> None:
    class Broken(FarTier):
        def holds(self, keys: Sequence[str]) -> set[str]:
            raise RuntimeError("no tier may raise")

    host = StageHost(pages=TieredCache([Broken()]))
    host.add("m.spell", Speller())
    answer = Spelled(await collect(host.stream("m.spell", Item("r", Spell(TEXT)))))
    assert (answer.receipt.cache, answer.text) == ("miss", TEXT)
    await host.close()


async def test_who_is_cancelled_while_pages_are_fetched_holds_nothing(scene: Scene) -> None:
    scene.put("ab")
    scene.far.get_gate.close()
    waiting = scene.spell()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    assert (scene.count("waiting_for_inputs"), scene.count("page_bytes_in_flight")) == (1, 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (scene.count("waiting_for_inputs"), scene.count("page_bytes_in_flight")) == (0, 0)
    assert scene.count("cancelled_total") == 1
    scene.far.get_gate.open()
    assert (await scene.spell()).text == TEXT


@pytest.mark.parametrize("where", ["asking", "fetching"])
async def test_a_deadline_ends_the_waiting(scene: Scene, where: str) -> None:
    scene.put("ab")
    gate = scene.far.where_gate if where == "asking" else scene.far.get_gate
    gate.close()
    with pytest.raises(DeadlineExceeded, match="pages of its beginning"):
        await scene.spell(in_s=0.05)
    assert (scene.count("expired_total"), scene.count("waiting_for_inputs")) == (1, 0)
    assert scene.count("page_bytes_in_flight") == 0


@pytest.mark.parametrize("where", ["asking", "fetching"])
async def test_who_has_waited_long_enough_goes_on_without(scene: Scene, where: str) -> None:
    scene.speller.page_work = 2.0
    await scene.spell("a")  # what computing takes is known, and it is little
    scene.put("ab")
    gate = scene.far.where_gate if where == "asking" else scene.far.get_gate
    gate.close()
    answer = await scene.spell()
    assert (answer.outcome, answer.text) == ((0, "miss", 0), TEXT)
    assert scene.count("page_fetches_failed_total") == 1
    assert scene.count("page_bytes_in_flight") == 0


async def test_what_was_late_is_not_fetched_again_at_once(scene: Scene) -> None:
    scene.speller.page_work = 2.0
    await scene.spell("a")
    scene.put("ab", "xy")
    scene.far.get_gate.close()
    await scene.spell()
    scene.far.get_gate.open()
    await scene.host.settled()
    declined = scene.count("page_fetches_declined_total")
    assert (await scene.spell("xyz")).text == "xyz"
    assert scene.count("page_fetches_declined_total") == declined + 1


async def test_several_fetch_a_page_once_and_its_bytes_are_on_one_receipt(scene: Scene) -> None:
    scene.put("ab", "abcd")
    scene.far.get_gate.close()
    waiting = [scene.spell(), scene.spell("abcdxy"), scene.spell("abz")]
    await once(lambda: scene.count("page_fetches_chosen_total") == 3)
    assert scene.count("page_bytes_in_flight") == 4
    scene.far.get_gate.open()
    answers = await asyncio.gather(*waiting)
    assert [answer.num_known for answer in answers] == [4, 4, 2]
    assert sum(answer.receipt.bytes_moved for answer in answers) == 4
    assert len(scene.far.asked) == 1
    assert scene.count("page_bytes_fetched_total") == 4


async def test_whoever_began_a_fetch_and_left_takes_it_from_nobody(scene: Scene) -> None:
    scene.put("ab")
    scene.far.get_gate.close()
    first = scene.spell()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    second = scene.spell()
    await once(lambda: scene.count("page_fetches_chosen_total") == 2)
    first.cancel()
    await asyncio.sleep(0)
    scene.far.get_gate.open()
    assert (await second).num_known == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_fetch_that_everybody_left_is_begun_again(scene: Scene) -> None:
    scene.put("ab")
    scene.far.get_gate.close()
    first = scene.spell()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    first.cancel()
    second = scene.spell()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.to_thread(scene.far.get_gate.wait_for, 2)
    scene.far.get_gate.open()
    assert (await second).num_known == 2


async def test_above_the_bound_of_bytes_nothing_more_is_fetched(scene: Scene) -> None:
    scene.speller.page_bytes = MAX_HELD_BYTES
    scene.put("ab", "abcd", "xy")
    scene.speller.gate.close()
    running = [scene.spell(), scene.spell("xyz")]
    answers_at = scene.speller.gate
    await asyncio.to_thread(answers_at.wait_for, 1)
    await once(lambda: scene.count("page_fetches_refused_total") == 1)
    answers_at.open()
    assert [answer.num_known for answer in await asyncio.gather(*running)] == [2, 0]
    assert scene.count("page_bytes_in_flight") == 0


async def test_pages_are_in_flight_until_the_row_has_begun(scene: Scene) -> None:
    scene.put("ab")
    scene.speller.gate.close()
    running = scene.spell()
    await asyncio.to_thread(scene.speller.gate.wait_for, 1)
    assert scene.count("page_bytes_in_flight") == 2
    scene.speller.gate.open()
    await running
    assert scene.count("page_bytes_in_flight") == 0


async def test_too_many_who_wait_for_pages_refuse_nobody_who_needs_nothing() -> None:
    scene = Scene(queue=1)
    scene.put("ab")
    scene.far.get_gate.close()
    waiting = scene.spell()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    assert (await scene.spell("abc")).outcome == (0, "miss", 0)
    assert scene.count("page_fetches_refused_total") == 1
    with pytest.raises(QueueFull):
        await scene.spell("abc", plus=(plus(1),))
    scene.far.get_gate.open()
    assert (await waiting).num_known == 2
    await scene.close()


async def test_what_could_never_run_is_refused_before_anything_is_looked_for(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="over 100 letters"):
        await scene.spell("a" * 101)
    assert scene.far.asked == []


async def test_a_stage_that_can_not_tell_its_pages_runs_without(scene: Scene) -> None:
    scene.speller.fails_telling = True
    answer = await scene.spell()
    assert (answer.receipt.cache, answer.text) == ("off", TEXT)
    assert scene.count("page_failures_total") == 1


async def test_features_are_looked_up_while_pages_are_slow() -> None:
    """Each cache has threads of its own."""
    scene = Scene()
    scene.put("ab")
    scene.far.get_gate.close()
    waiting = [scene.spell(tenant=f"t{number}") for number in range(20)]
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    reply = await scene.host.call("m.adder", Item("r", Add(1, 2), name="sum"))
    assert int(reply.value.total) == 3
    scene.far.get_gate.open()
    await asyncio.gather(*waiting)
    await scene.close()


async def test_what_is_in_memory_or_nowhere_waits_for_nobodys_fetches(scene: Scene) -> None:
    scene.put("xy", tier=scene.memory)
    scene.put(*(f"{letter}a" for letter in "abcdefghij"))
    scene.far.get_gate.close()
    waiting = [scene.spell(f"{letter}ab") for letter in "abcdefghij"]
    await asyncio.to_thread(scene.far.get_gate.wait_for, READERS)
    assert (await scene.spell("xyz")).outcome == (2, "memory", 0)
    assert (await scene.spell("uvw")).outcome == (0, "miss", 0)
    scene.far.get_gate.open()
    assert {answer.receipt.cache for answer in await asyncio.gather(*waiting)} == {"redis"}


async def test_what_memory_loses_meanwhile_comes_from_far(scene: Scene) -> None:
    class Losing(MemoryTier):
        def holds(self, keys: Sequence[str]) -> set[str]:
            return set(keys)

    scene.put("ab", "abcd")
    host = StageHost(pages=TieredCache([Losing(2**20), scene.far]))
    host.add("m.spell", Speller(), contents=Contents("", "w"))
    answer = Spelled(await collect(host.stream("m.spell", Item("r", Spell("abcde")))))
    assert (answer.outcome, answer.text) == ((4, "redis", 4), "abcde")
    await host.close()


async def test_closing_ends_what_waits_for_pages() -> None:
    scene = Scene()
    scene.put("ab")
    scene.far.get_gate.close()
    waiting = scene.spell()
    await asyncio.to_thread(scene.far.get_gate.wait_for, 1)
    closing = asyncio.create_task(scene.host.close())
    with pytest.raises(Exception, match="shutting down"):
        await waiting
    scene.far.get_gate.open()
    await closing
