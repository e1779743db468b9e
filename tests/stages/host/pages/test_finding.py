"""Where rows begin: what their stage holds, pages in memory, pages far away, and what becomes of an item when any of it goes wrong."""

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from cache.codec import Arrays
from cache.memory import ENTRY_BYTES, MemoryTier
from cache.tier import UNLABELLED, Label
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.engine import EngineIdentity
from stages.contract.errors import DeadlineExceeded, InvalidRequest, QueueFull
from stages.contract.item import InputReceipts, Item, StageMetrics, StageReceipt, StreamEnd
from stages.contract.limits import QueueLimits
from stages.host.host import StageHost
from stages.host.pages.fetching import PageFetching, Wanted
from stages.host.pages.held import MAX_HELD_BYTES
from stages.host.remembered.cache_threads import READERS, CacheThreads
from stages.host.remembered.origin import Origin, remembered_as
from tests.stages.fakes import PATIENCE_S, Add, Adder, FarTier, Gate
from tests.stages.host.test_host import collect, once
from tests.stages.host.test_inputs import plus
from tests.stages.paged import PAGE, Letters, Spell, Speller

TEXT = "abcdefgh"
ORIGIN = Origin.of(EngineIdentity("m.spell", "cpu"), "w").key


class Far(FarTier):
    """Says where things are through a gate of its own, and notes what it is asked for and given, and under which label."""

    def __init__(self) -> None:
        super().__init__()
        self.where_gate = Gate()
        self.asked: list[tuple[str, ...]] = []
        self.labels: set[Label] = set()
        self.lies = False  # says that it has what it hasn't

    def holds(self, keys: Sequence[str]) -> set[str]:
        self.where_gate.pass_through()
        return set(keys) if self.lies else super().holds(keys)

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.asked.append(tuple(keys))
        self.labels.add(label)
        return super().get_many(keys, label)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        self.labels.add(label)
        super().put_many(values, label)

    def delete(self, keys: Sequence[str]) -> None:
        self.put_gate.pass_through()
        super().delete(keys)


class Scene:
    """Two hosts of the same stage that share a far tier: what one has spelled the other finds. `far` may be left out."""

    def __init__(self, *, queue: int = 256, memory_bytes: int = 2**20) -> None:
        self.far, self.memory = Far(), MemoryTier(memory_bytes)
        self.speller = Speller()
        self.host = StageHost(pages=TieredCache([self.memory, self.far]), replica="r")
        self.host.add("m.adder", Adder())
        self.host.add("m.spell", self.speller, queue=QueueLimits(queue), contents=Contents("", "w"))

    def put(self, *texts: str, salt: str = "", tier: MemoryTier | None = None) -> None:
        """As pages far away, or in `tier`."""
        for text in texts:
            key = remembered_as(f"{salt}:{text}", ORIGIN)
            MemoryTier.put_many(tier or self.far, {key: Letters.of_text(text[-2:]).arrays()})

    def spell(self, text: str = TEXT, *, in_s: float | None = None, salt: str = "", **item: Any) -> "asyncio.Task[Spelled]":
        deadline = float("inf") if in_s is None else time.time() + in_s
        payload = Spell(text, salt, item.pop("plus", ()))
        return asyncio.create_task(self._spell(Item("r", payload, deadline=deadline, salt=salt, **item)))

    async def _spell(self, item: Item[Any]) -> "Spelled":
        return Spelled(await collect(self.host.stream("m.spell", item)))

    def count(self, name: str) -> float:
        return next(stage.counters[name] for stage in self.host.metrics() if stage.stage == "m.spell")

    async def close(self) -> None:
        for gate in (self.far.get_gate, self.far.put_gate, self.far.where_gate, self.speller.gate, self.speller.export_gate):
            gate.open()
        await self.host.close()


class Spelled:
    """An answer: how many letters were known, what was spelled, and the stage's receipt."""

    def __init__(self, events: Sequence[object]) -> None:
        self.num_known, self.text = next(event for event in events if isinstance(event, tuple))
        self.inputs = [receipt for event in events if isinstance(event, InputReceipts) for receipt in event.receipts]
        assert isinstance(events[-1], StreamEnd)
        self.receipt: StageReceipt = events[-1].receipt

    @property
    def outcome(self) -> tuple[int, str, int]:
        return self.num_known, self.receipt.cache, self.receipt.bytes_moved


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


# ---- found ----


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
    for _ in range(3):
        await scene.spell()
        await once(lambda: scene.count("pages_exported_total") >= 4)
        await scene.host.settled()
        assert scene.memory.holds(keys) >= set(keys[:2])
    await scene.close()


# ---- what goes wrong ----


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
