"""What a replica's process must know to start. Decides which tiers a cache has; knows no Ray and loads no model."""

from dataclasses import dataclass

from cache.memory import MemoryTier
from cache.tier import Tier
from cache.tiered import TieredCache
from pipelines.settings.config import from_environment
from stages.contract.errors import ConfigurationError
from stages.host.registry import StageSpec


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Where a replica remembers: memory, and Redis where a URL is given, or the environment variable that holds it."""

    memory_bytes: int
    redis_url: str | None = None
    max_value_bytes: int = 8 * 2**20
    ttl_s: float | None = None
    redis_url_env: str | None = None

    def open(self) -> TieredCache:
        """Raises `ConfigurationError` where the URL can't be used."""
        tiers: list[Tier] = [MemoryTier(self.memory_bytes)] if self.memory_bytes else []
        setting, url = "cache.redis.url", self.redis_url
        if self.redis_url_env is not None:
            setting = "cache.redis.url_env"
            url = from_environment(self.redis_url_env, setting)
        if url is not None:
            tiers.append(self._redis(url, setting))
        return TieredCache(tiers)

    def _redis(self, url: str, setting: str) -> Tier:
        from cache.redis_tier import RedisTier

        try:
            return RedisTier(url, max_value_bytes=self.max_value_bytes, ttl_s=self.ttl_s)
        except ValueError:  # whose message may hold a part of the password
            raise ConfigurationError(f"{setting}: not the URL of a Redis server (redis://, rediss:// or unix://)") from None


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """Everything a replica must know to start."""

    deployment: str
    stages: tuple[StageSpec, ...]
    cache: CacheSpec
    torch_threads: int | None  # None: as many as there are cores
