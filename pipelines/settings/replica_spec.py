"""What a replica's process must know to start. Decides which tiers a cache has; knows no Ray and loads no model."""

from dataclasses import dataclass
from functools import partial

from cache.memory import MemoryTier
from cache.private_socket import Private
from cache.tier import Tier
from cache.tiered import TieredCache
from pipelines.settings.environment import secret_of
from pipelines.settings.private_redis import socket_path, socket_url
from stages.contract.errors import ConfigurationError
from stages.host.registry import StageSpec


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Where a replica remembers: memory, and Redis where there is a URL, an environment variable or a file that holds one, or the
    name of an embedded server (`pipelines/settings/private_redis.py`)."""

    memory_bytes: int
    redis_url: str | None = None
    max_value_bytes: int = 8 * 2**20
    ttl_s: float | None = None
    redis_url_env: str | None = None
    redis_url_file: str | None = None
    embedded: str | None = None

    def open(self) -> TieredCache:
        """Raises `ConfigurationError` where the URL can't be used."""
        tiers: list[Tier] = [MemoryTier(self.memory_bytes)] if self.memory_bytes else []
        if self.embedded is not None:
            tiers.append(
                self._redis(socket_url(self.embedded), "cache.redis.url", private=partial(socket_path, self.embedded))
            )
        elif self.redis_url_env is not None or self.redis_url_file is not None:
            setting = "cache.redis.url_env" if self.redis_url_env is not None else "cache.redis.url_file"
            url = secret_of(env=self.redis_url_env, file=self.redis_url_file, setting=setting)
            tiers.append(self._redis(url.text, setting))
        elif self.redis_url is not None:
            tiers.append(self._redis(self.redis_url, "cache.redis.url"))
        return TieredCache(tiers)

    def _redis(self, url: str, setting: str, *, private: Private | None = None) -> Tier:
        from cache.redis_tier import RedisTier

        try:
            return RedisTier(url, max_value_bytes=self.max_value_bytes, ttl_s=self.ttl_s, private=private)
        except ValueError:  # whose message may hold a part of the password
            raise ConfigurationError(f"{setting}: not the URL of a Redis server (redis://, rediss:// or unix://)") from None


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """Everything a replica must know to start."""

    deployment: str
    stages: tuple[StageSpec, ...]
    cache: CacheSpec
    torch_threads: int | None  # None: as many as there are cores
