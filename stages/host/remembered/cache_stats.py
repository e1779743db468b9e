"""What the tiers of a host's caches tell of themselves, as an event loop may ask it, and as counters.

Decides what the counters are called: `cache` remembers results, `pages` where rows begin; of each tier, and of each kind of value.
Asking a far tier is no work for the event loop: it is asked aside, and its last answer is told.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

from cache.tier import TierStats
from cache.tiered import MEMORY, TieredCache
from stages.contract.errors import Overloaded
from stages.host.remembered.cache_threads import CacheThreads


@dataclass(slots=True)
class CacheCounters:
    """Of one stage's results, as far as this process answered for them: what it asked of another process is counted there. `hits`: by
    tier; `waits`: for another process that was making the same."""

    hits: dict[str, int]
    misses: int = 0
    joined: int = 0
    waits: int = 0
    wait_s: float = 0.0

    @classmethod
    def of(cls, tiers: Iterable[str]) -> "CacheCounters":
        return cls(dict.fromkeys(tiers, 0))

    def waited(self, seconds: float) -> None:
        self.waits += 1
        self.wait_s += seconds

    def as_metrics(self) -> dict[str, float]:
        return {f"cache_hits_{tier}_total": float(count) for tier, count in self.hits.items()} | {
            "cache_misses_total": float(self.misses),
            "cache_joined_total": float(self.joined),
            "cache_waits_total": float(self.waits),
            "cache_wait_seconds_total": self.wait_s,
        }


class CacheStats:
    """Of one cache, on one event loop."""

    def __init__(self, cache: TieredCache, threads: CacheThreads) -> None:
        self._cache, self._threads = cache, threads
        self._known: Mapping[str, TierStats] = {}
        self._asking: asyncio.Task[None] | None = None

    def latest(self) -> Mapping[str, TierStats]:
        """By tier, as far as they have been heard of."""
        if not self._cache.is_far:
            return self._cache.stats()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._known

    async def settled(self) -> None:
        """Returns once nobody is being asked."""
        if self._asking is not None:
            await self._asking

    async def _ask(self) -> None:
        with suppress(Overloaded):
            self._known = await self._threads.stats()


def counters_of(cache: str, stats: Mapping[str, TierStats]) -> dict[str, float]:
    """Of the cache of that name. Evictions are those of memory: a far store's are its own, and the same to everyone."""
    memory = stats.get(MEMORY, TierStats())
    told = {
        f"{cache}_evictions_total": float(memory.evictions),
        f"{cache}_memory_bytes": float(memory.bytes),
        f"{cache}_errors_total": float(sum(tier.errors for tier in stats.values())),
        f"{cache}_corrupt_total": float(sum(tier.corrupt for tier in stats.values())),
    }
    for name, tier in stats.items():
        if name != MEMORY:
            told[f"{cache}_{name}_down"] = float(tier.is_down)
            told[f"{cache}_{name}_opened_total"] = float(tier.opened)
        for kind, counts in tier.kinds.items():
            for what, count in asdict(counts).items():
                told[f"{cache}_{name}_{kind}_{what}_total"] = float(count)
    return told
