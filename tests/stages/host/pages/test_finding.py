"""Pages of a beginning: looked for, found, and brought."""

import asyncio
import inspect
import re

import pytest

from cache.memory import ENTRY_BYTES, MemoryTier
from cache.tier import Label
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.errors import InvalidRequest
from stages.contract.item import Item, StageMetrics
from stages.host.host import StageHost
from stages.host.remembered.origin import remembered_as
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import plus
from tests.stages.host.pages.spelling import ORIGIN, TEXT, Scene, Spelled
from tests.stages.paged import PAGE, Letters, Spell, Speller


async def test_what_was_spelled_once_is_found_by_another_replica(scene: Scene) -> None:
    first = await scene.spell()
    assert (first.outcome, first.text) == ((0, "miss", 0), TEXT)
    await once(lambda: scene.count("pages_exported_total") == 4)
    other = StageHost(pages=TieredCache([MemoryTier(2**20), scene.far]))
    other.add("m.spell", Speller(), contents=Contents("", "w"))
    second = Spelled(await collect(other.stream("m.spell", Item("r", Spell(TEXT + "ij")))))
    assert (second.outcome, second.text) == ((8, "redis", 8), TEXT + "ij")
    third = Spelled(await collect(other.stream("m.spell", Item("r", Spell(TEXT + "kl")))))
    assert (third.outcome, third.text) == ((8, "memory", 0), TEXT + "kl")
    await other.close()


async def test_what_the_stage_holds_is_not_looked_for(scene: Scene) -> None:
    scene.speller.forgets = False
    await scene.spell()
    asked = len(scene.far.asked)
    again = await scene.spell()
    assert (again.num_known, again.receipt.cache) == (7, "slots")
    assert (len(scene.far.asked), scene.count("page_hits_slots_total")) == (asked, 4)


async def test_a_run_goes_on_where_the_stage_ends(scene: Scene) -> None:
    scene.speller.holds = {":ab": "ab"}
    scene.put("abcd", "abcdef")
    found = await scene.spell()
    assert (found.outcome, found.text) == ((6, "redis", 4), TEXT)
    counts = {name: scene.count(f"page_{name}_total") for name in ("hits_slots", "hits_memory", "hits_redis", "misses")}
    assert counts == {"hits_slots": 1, "hits_memory": 0, "hits_redis": 2, "misses": 1}


async def test_the_farthest_tier_is_on_the_receipt(scene: Scene) -> None:
    scene.put("ab", tier=scene.memory)
    scene.put("abcd")
    assert (await scene.spell()).outcome == (4, "redis", 2)
    assert (scene.count("page_hits_memory_total"), scene.count("page_hits_redis_total")) == (1, 1)
    again = await scene.spell("abcdxy")
    assert (again.outcome, again.receipt.cache_s > 0) == ((4, "memory", 0), True)


async def test_behind_a_gap_nothing_is_fetched(scene: Scene) -> None:
    scene.put("ab", "abcdef")
    assert (await scene.spell()).outcome == (2, "redis", 2)
    assert [len(keys) for keys in scene.far.asked] == [1]


async def test_where_a_page_holds_all_the_last_one_does(scene: Scene) -> None:
    scene.speller.each_holds_all = True
    for text in ("ab", "abcdef"):
        key = remembered_as(f":{text}", ORIGIN)
        scene.far.put_many({key: Letters.of_text(text).arrays()})
    found = await scene.spell()
    assert (found.outcome, found.text) == ((6, "redis", 6), TEXT)
    assert (scene.count("page_hits_redis_total"), scene.count("page_misses_total")) == (3, 1)


async def test_results_that_lie_within_pages_are_not_needed(scene: Scene) -> None:
    scene.put("ab")
    found = await scene.spell("abcd", plus=(plus(1), plus(2)))
    assert [receipt.stage for receipt in found.inputs] == ["m.adder"]
    assert found.num_known == 2


async def test_what_is_needed_is_begun_while_pages_are_looked_for_far_away(scene: Scene) -> None:
    scene.far.where_gate.close()
    answer = scene.spell("abcd", plus=(plus(1), plus(2)))
    await asyncio.to_thread(scene.far.where_gate.wait_for, 1)
    await once(lambda: sum(map(len, scene.adder.batches)) == 2)
    assert not answer.done()
    scene.far.where_gate.open()
    found = await answer
    assert [receipt.stage for receipt in found.inputs] == ["m.adder", "m.adder"]
    assert sum(map(len, scene.adder.batches)) == 2


async def test_what_was_begun_and_lies_within_pages_is_waited_for_by_nobody(scene: Scene) -> None:
    scene.put("ab", "abcd")
    scene.adder.run_gate.close()
    found = await scene.spell("abcde", plus=(plus(1), plus(2)))
    assert (found.num_known, found.inputs) == (4, [])


async def test_its_failure_is_nobodys_either(scene: Scene) -> None:
    scene.put("ab", "abcd")
    found = await scene.spell("abcde", plus=(plus(1001), plus(2)))
    assert (found.num_known, found.inputs) == (4, [])
    with pytest.raises(InvalidRequest):
        await scene.spell("efgh", plus=(plus(1001), plus(2)))


async def test_whoever_leaves_while_that_is_called_off_holds_no_pages(scene: Scene) -> None:
    scene.put("ab", "abcd")
    for num_ticks in range(40):
        answer = scene.spell("abcde", plus=(plus(1), plus(2)), tenant=f"t{num_ticks}")
        await once(lambda: scene.count("page_bytes_in_flight") > 0)
        for _ in range(num_ticks):
            await asyncio.sleep(0)
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        await once(lambda: scene.count("page_bytes_in_flight") == 0)


async def test_what_is_needed_twice_is_begun_once(scene: Scene) -> None:
    scene.adder.run_gate.close()
    before = asyncio.all_tasks()
    scene.far.where_gate.close()
    answer = scene.spell("abcd", plus=(plus(1), plus(1)))
    await asyncio.to_thread(scene.far.where_gate.wait_for, 1)
    answer.cancel()
    await asyncio.gather(answer, return_exceptions=True)
    scene.far.where_gate.open()
    scene.adder.run_gate.open()
    await once(lambda: asyncio.all_tasks() <= before)


async def test_where_pages_are_in_memory_nobody_is_asked_for_what_lies_within(scene: Scene) -> None:
    scene.put("ab", "abcd", tier=scene.memory)
    found = await scene.spell("abcde", plus=(plus(1), plus(2)))
    assert (found.num_known, found.inputs) == (4, [])
    assert scene.adder.num_prepared == 0


async def test_pages_are_labelled_with_their_kind_and_whose_they_are(scene: Scene) -> None:
    await scene.spell(salt="s")
    await once(lambda: scene.count("pages_exported_total") == 4)
    await scene.spell(salt="s")
    assert scene.far.labels == {Label("letters", "s")}


async def test_short_items_and_hosts_without_pages_look_for_nothing(scene: Scene) -> None:
    short = await scene.spell("a")
    assert (short.receipt.cache, short.receipt.cache_s) == ("off", 0.0)
    host = StageHost()
    host.add("m.spell", speller := Speller())
    answer = Spelled(await collect(host.stream("m.spell", Item("r", Spell(TEXT)))))
    assert (answer.receipt.cache, speller.exported) == ("off", [])
    assert "page_misses_total" not in host.metrics()[0].counters
    await host.close()


async def test_every_counter_of_pages_has_its_agreed_name(scene: Scene) -> None:
    named = re.findall(r"\bpages?_\w+", inspect.getsource(StageMetrics))
    documented = {name.replace("TIER", tier) for name in named for tier in ("memory", "redis")}
    await scene.spell()
    await once(lambda: scene.host.metrics()[0].counters.get("pages_redis_letters_puts_total") == 4)
    spell = next(stage for stage in scene.host.metrics() if stage.stage == "m.spell")
    own = {name for name in spell.counters if name.startswith("page")}
    assert own == documented
    shared = scene.host.metrics()[0].counters
    assert (shared["pages_memory_letters_puts_total"], shared["pages_redis_down"]) == (4, 0)
    assert shared["pages_memory_bytes"] > 0


@pytest.mark.parametrize("forgets", [True, False])
async def test_where_memory_is_too_small_the_end_of_a_run_goes_first_also_while_the_stage_itself_holds_it(
    forgets: bool,
) -> None:
    scene = Scene(memory_bytes=3 * (PAGE + ENTRY_BYTES))
    scene.speller.forgets = forgets
    keys = [remembered_as(name, ORIGIN) for name in Spell(TEXT).page_names()]
    for num_written in (4, 5, 6):  # what there is no room for is written again each time
        await scene.spell()
        await once(lambda expected=num_written: scene.count("pages_exported_total") >= expected)  # type: ignore[misc]
        await scene.host.settled()
        assert scene.memory.holds(keys) >= set(keys[:2])
    await scene.close()
