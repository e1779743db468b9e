"""What a replica's process must know to start. Decides which tiers a cache has; knows no Ray and loads no model."""

from dataclasses import dataclass

from cache.memory import MemoryTier
from cache.tier import Tier
from cache.tiered import TieredCache
from stages.host.registry import StageSpec


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Where a replica remembers: memory, and Redis where a URL is given."""

    memory_bytes: int
    redis_url: str | None = None
    max_value_bytes: int = 8 * 2**20
    ttl_s: float | None = None

    def open(self) -> TieredCache:
        tiers: list[Tier] = [MemoryTier(self.memory_bytes)] if self.memory_bytes else []
        if self.redis_url is not None:
            from cache.redis_tier import RedisTier

            tiers.append(RedisTier(self.redis_url, max_value_bytes=self.max_value_bytes, ttl_s=self.ttl_s))
        return TieredCache(tiers)


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """Everything a replica must know to start."""

    deployment: str
    stages: tuple[StageSpec, ...]
    cache: CacheSpec
    torch_threads: int | None  # None: as many as there are cores
