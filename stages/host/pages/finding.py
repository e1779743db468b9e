"""Where an item's beginning comes from: what its stage holds itself, then pages from the cache, and computing for the rest.

Decides what is looked for, and that whatever goes wrong with it is a miss: nobody waits for pages longer than computing them would
take, and nobody is refused for them. What is worth fetching is `rule.py`'s affair. Knows no kind of stage.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cache.tier import Label
from cache.tiered import MEMORY, Found
from stages.concurrency.thread_pool import TENANT
from stages.contract.errors import TriptychError
from stages.contract.item import Item, StageReceipt
from stages.contract.pages import PageRun, Paging
from stages.contract.recipe import NO_INPUTS, Inputs
from stages.contract.result import Result
from stages.engine.delivery import Deliver
from stages.host.deadlines import remaining_s, too_late
from stages.host.pages.counters import PageCounters
from stages.host.pages.fetching import Fetched, PageFetching, Wanted
from stages.host.pages.held import HeldPages
from stages.host.pages.rule import FetchRule, Plan, within_reach
from stages.host.pages.writing import PageWriter
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.origin import remembered_as

ASKING_PATIENCE_S = 0.5
FETCHING_PATIENCE_S = 2.0
"""Where nobody knows how long computing takes."""
MIN_PATIENCE_S = 0.05


@dataclass(slots=True)
class Beginning:
    """What an item begins with. `cache`: as in its receipt; None: nothing is known of pages here. `let_go` once they are where they are
    needed, or nobody needs them any more."""

    pages: Inputs = NO_INPUTS
    cache: str | None = None
    bytes_moved: int = 0
    waited_s: float = 0.0
    held: HeldPages | None = None
    keys: list[str] = field(default_factory=list)

    def told(self, receipt: StageReceipt) -> StageReceipt:
        """The stage's receipt, with that."""
        if self.cache is None:
            return receipt
        return replace(receipt, cache=self.cache, bytes_moved=self.bytes_moved, cache_s=self.waited_s)

    def keep(self, keys: Sequence[str]) -> None:
        """Of the others the memory is no longer counted."""
        kept = frozenset(keys)
        if self.held is not None:
            self.held.let_go(key for key in self.keys if key not in kept)
        self.keys = [key for key in self.keys if key in kept]

    def let_go(self) -> None:
        """Idempotent. They are nowhere but where they are needed, or remembered."""
        self.keep(())
        self.pages = NO_INPUTS


class StagePages:
    """The pages of one stage. `origin`: the key of who makes them. On one event loop; what it is to remember comes on any thread."""

    def __init__(self, stage: str, paging: Paging[Any], cache: CacheThreads, origin: str, deliver: Deliver) -> None:
        self._stage, self._paging, self._cache, self._origin = stage, paging, cache, origin
        self._kind = paging.page_type.kind()
        self._counters, self._rule = PageCounters.of(cache.tier_names), FetchRule()
        self._held = HeldPages()
        self._fetching = PageFetching(cache)
        self._writer = PageWriter(
            cache,
            self._kind,
            origin,
            deliver,
            on_room=paging.room_again,
            on_lost=paging.lost,
            on_written=self._are_at_hand,
        )
        self._told: Callable[[Mapping[str, str], float], None] | None = None
        self._forgetting: set[asyncio.Task[None]] = set()
        self._latest = PageRun()
        paging.remember_with(self._writer)

    def tell(self, told: Callable[[Mapping[str, str], float], None]) -> None:
        """Is called with pages that are in memory now: by name, the key of each, and when. Of those that are of use one by one only: of a
        run from the first, its beginnings are told apart."""
        self._told = told

    def _are_at_hand(self, names: Sequence[str]) -> None:
        if self._told is not None and self._latest.each_holds_all:
            self._told({name: remembered_as(name, self._origin) for name in names}, time.monotonic())

    def metrics(self) -> dict[str, float]:
        work, num_bytes = self._latest.work, self._latest.num_bytes
        return {
            **self._counters.as_metrics(),
            **self._writer.metrics(),
            "page_bytes_in_flight": float(self._held.num_bytes),
            "page_compute_seconds": self._paging.seconds_for(work) or 0.0,
            **{
                f"page_fetch_{tier}_seconds": self._rule.seconds_for(tier, num_bytes) or 0.0 for tier in self._cache.tier_names
            },
        }

    def run_of(self, item: Item[Any]) -> PageRun:
        """Raises what submitting the item would raise now."""
        run = self._paging.run_of(item.payload, item.tenant)
        if run.names:
            self._latest = run
            self._cache.used([remembered_as(name, self._origin) for name in run.names])
        return run

    def are_near(self, run: PageRun) -> bool:
        """Whether all of it that the stage lacks is at hand in memory, as far as anything may be elsewhere."""
        keys = [remembered_as(name, self._origin) for name in run.names]
        return self._cache.are_near(keys, keys[run.num_resident :])

    def as_held(self, run: PageRun) -> Beginning:
        """What the stage holds itself, and nothing else."""
        if not run.names:
            return Beginning(cache="off")
        num_resident = min(run.num_resident, len(run.names))
        self._counters.page_hits_slots_total += num_resident
        self._counters.page_misses_total += len(run.names) - num_resident
        return Beginning(cache="slots" if num_resident else "miss")

    def refused(self, run: PageRun) -> Beginning:
        """So many wait already that nothing is looked for."""
        self._counters.page_fetches_refused_total += 1
        return self.as_held(run)

    async def find(self, item: Item[Any], run: PageRun) -> Beginning:
        """With pages beyond what the stage holds. Raises `DeadlineExceeded`."""
        began = time.monotonic()
        try:
            beginning = await self._find(item, run)
            beginning.waited_s = time.monotonic() - began
        finally:
            self._counters.page_wait_seconds_total += time.monotonic() - began
        if remaining_s(item) == 0:
            beginning.let_go()
            raise too_late(f"pages of its beginning were still being looked up for stage {self._stage}")
        return beginning

    async def settled(self) -> None:
        """Returns once nothing is being fetched or forgotten, and all is written that the event loop has heard of."""
        await self._fetching.settled()
        while self._forgetting:
            await asyncio.wait(self._forgetting)
        await self._writer.settled()

    async def close(self) -> None:
        """Nothing more is fetched; what waits to be written is."""
        self._fetching.call_off()
        await self.settled()

    async def _find(self, item: Item[Any], run: PageRun) -> Beginning:
        keys = {name: remembered_as(name, self._origin) for name in run.names[run.num_resident :]}
        tiers = await self._where(item, list(keys.values()))
        at = {name: tiers[key] for name, key in keys.items() if key in tiers}
        if not within_reach(run, at):
            return self.as_held(run)
        plan = self._rule.plan(run, at, self._paging.seconds_for(run.work), time.monotonic())
        if not plan.names:
            self._counters.page_fetches_declined_total += 1
            return self.as_held(run)
        held = self._held.hold([keys[name] for name in plan.names], run.num_bytes, item.tenant)
        if len(held) < len(plan.names):
            plan = replace(plan, names=plan.names[: len(held)], fetch_s=None)
        if not held:
            return self.refused(run)
        beginning = Beginning(held=self._held, keys=held)
        try:
            await self._fetch(item, run, plan, keys, at, beginning)
        except BaseException:
            beginning.let_go()
            raise
        return beginning

    async def _where(self, item: Item[Any], keys: Sequence[str]) -> Mapping[str, str]:
        """The tiers that have them, as far as they say so soon."""
        context = Context()
        context.run(TENANT.set, item.tenant)
        asking = asyncio.get_running_loop().create_task(self._cache.where(keys), context=context)
        try:
            async with asyncio.timeout(_within(item, ASKING_PATIENCE_S)):
                return await asking
        except Exception as error:
            self._counters.page_fetches_failed_total += 1
            logging.getLogger("triptych.stages").debug("pages of %s: %s", self._stage, error)
            return {}

    async def _fetch(
        self, item: Item[Any], run: PageRun, plan: Plan, keys: Mapping[str, str], at: Mapping[str, str], beginning: Beginning
    ) -> None:
        """What comes of the plan, and what is learned of it."""
        self._counters.page_fetches_chosen_total += 1
        by_tier: dict[str, list[str]] = {}
        for name in plan.names:
            by_tier.setdefault(at[name], []).append(keys[name])
        began = time.monotonic()
        patience_s = FETCHING_PATIENCE_S if plan.compute_s is None else max(plan.compute_s, MIN_PATIENCE_S)
        wanted = Wanted(by_tier, Label(self._kind, item.salt), item.tenant, partial(self._observe, run.num_bytes))
        fetched = await self._fetching.fetch(wanted, _within(item, patience_s))
        seconds = time.monotonic() - began
        self._counters.page_fetch_seconds_total += seconds
        if plan.fetch_s is not None:
            self._counters.page_fetch_error_seconds_total += abs(seconds - plan.fetch_s)
        if fetched.is_late:
            for tier, asked in by_tier.items():
                if fetched.begun.intersection(asked).difference(fetched.found):  # it takes at least so long
                    self._rule.observe(tier, run.num_bytes * len(asked), seconds, time.monotonic())
        self._use(run, plan, keys, fetched, beginning)

    def _observe(self, page_bytes: int, tier: str, num_bytes: int, num_missing: int, seconds: float) -> None:
        if tier != MEMORY:
            self._counters.page_bytes_fetched_total += num_bytes
        self._rule.observe(tier, num_bytes, seconds, time.monotonic(), num_missing_bytes=num_missing * page_bytes)

    def _use(self, run: PageRun, plan: Plan, keys: Mapping[str, str], fetched: Fetched, beginning: Beginning) -> None:
        """All up to the first that did not come."""
        pages: dict[str, Result] = {}
        used: list[Found] = []
        for name in plan.names:
            found = fetched.found.get(keys[name])
            if found is None:
                break
            try:
                pages[name] = self._paging.page_type.of(found.value).freeze()
            except ValueError:
                self._forget(keys[name])
                break
            used.append(found)
            if found.tier != MEMORY and keys[name] in fetched.begun:  # or the bytes are on another's receipt
                beginning.bytes_moved += found.bytes
        beginning.pages = Inputs(pages)
        beginning.keep([keys[name] for name in pages])
        self._cache.used([remembered_as(name, self._origin) for name in run.names])  # what came from far came last
        self._are_at_hand(list(pages))
        self._tell(run, list(pages), used, beginning)

    def _forget(self, key: str) -> None:
        """Behind whatever is being written: nobody waits for it."""

        async def forget() -> None:
            with suppress(TriptychError):
                await self._cache.forget(key)

        task = asyncio.get_running_loop().create_task(forget())
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    def _tell(self, run: PageRun, names: Sequence[str], used: Sequence[Found], beginning: Beginning) -> None:
        """On the receipt the farthest tier; of the counters each the pages that it spares."""
        if not used:
            self._counters.page_fetches_failed_total += 1
            beginning.cache = self.as_held(run).cache
            return
        beginning.cache = max((found.tier for found in used), key=self._cache.tier_names.index)
        num_spared = run.names.index(names[-1]) + 1 - run.num_resident
        self._counters.page_hits_slots_total += run.num_resident
        for tier, count in parted(num_spared, Counter(found.tier for found in used)).items():
            self._counters.hits[tier] += count
        self._counters.page_misses_total += len(run.names) - run.num_resident - num_spared


def parted(whole: int, parts: Mapping[str, int]) -> Mapping[str, int]:
    """`whole` in proportion to the parts, which are not all 0: whole numbers that add up to it."""
    total, shares, before = sum(parts.values()), {}, 0
    for name, part in parts.items():
        shares[name] = whole * (before + part) // total - whole * before // total
        before += part
    return shares


def _within(item: Item[Any], seconds: float) -> float:
    left_s = remaining_s(item)
    return seconds if left_s is None else min(seconds, left_s)
