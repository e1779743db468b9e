"""What a replica's process must know to start. Decides which tiers a cache has; knows no Ray and loads no model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cache.memory import MemoryTier
from cache.redis.private_socket import Private
from cache.store import Store
from cache.tier import Tier
from cache.tiered import TieredCache
from pipelines.settings.environment import secret_of
from pipelines.settings.private_redis import socket_path, socket_url
from stages.contract.errors import ConfigurationError
from stages.host.kinds.registry import StageSpec

_RUNS: dict[str, Any] = {"put_within_s": 1.0, "keys_per_round_trip": 16, "queue_bytes": 128 * 2**20}


@dataclass(frozen=True, slots=True)
class RedisSpec:
    """The shared tier: where it is (a URL, or an environment variable or a file that holds one, or the name of an embedded server:
    `pipelines/settings/private_redis.py`), and what is kept there. `setting`: what its errors call it. `in_runs`: large values come and go
    many at a time, on threads that may wait for them."""

    setting: str = "cache.redis"
    url: str | None = None
    url_env: str | None = None
    url_file: str | None = None
    embedded: str | None = None
    cluster: bool = False
    part_bytes: int = 8 * 2**20
    max_value_bytes: int = 64 * 2**20
    ttl_s: float | None = None
    ttl_s_of: Mapping[str, float] = field(default_factory=dict)
    in_runs: bool = False

    def open(self) -> Tier:
        """Raises `ConfigurationError` where the URL can't be used."""
        from cache.redis.redis_tier import RedisTier

        where = self.place()
        try:
            return RedisTier(
                where.url,
                cluster=self.cluster,
                private=where.private,
                part_bytes=self.part_bytes,
                max_value_bytes=self.max_value_bytes,
                ttl_s=self.ttl_s,
                ttl_s_of=self.ttl_s_of,
                **(_RUNS if self.in_runs else {}),
            )
        except ValueError:
            raise where.refused() from None

    def open_store(self) -> Store:
        """The same server as a place for what is counted on. Raises `ConfigurationError` where the URL can't be used."""
        from cache.redis.redis_store import RedisStore

        where = self.place()
        try:
            return RedisStore(where.url, cluster=self.cluster, private=where.private, part_bytes=self.part_bytes)
        except ValueError:
            raise where.refused() from None

    def place(self) -> "RedisPlace":
        """Raises `ConfigurationError` where a variable or a file holds no URL."""
        if self.embedded is not None:
            return RedisPlace(f"{self.setting}.url", socket_url(self.embedded), partial(socket_path, self.embedded))
        if self.url_env is not None or self.url_file is not None:
            setting = f"{self.setting}.{'url_env' if self.url_env is not None else 'url_file'}"
            return RedisPlace(setting, secret_of(env=self.url_env, file=self.url_file, setting=setting).text)
        return RedisPlace(f"{self.setting}.url", str(self.url))


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """A URL as it is now, which may hold a password, and the setting that it is of."""

    setting: str
    url: str = field(repr=False)
    private: Private | None = None

    def refused(self) -> ConfigurationError:
        """In place of the error that says why, which may hold a part of the password."""
        return ConfigurationError(f"{self.setting}: not the URL of a Redis server (redis://, rediss:// or unix://)")


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """Where a replica remembers: in memory (0 bytes: not there), and in Redis."""

    memory_bytes: int
    redis: RedisSpec | None = None

    def open(self) -> TieredCache:
        """Raises `ConfigurationError` where the URL can't be used."""
        near: list[Tier] = [MemoryTier(self.memory_bytes)] if self.memory_bytes else []
        return TieredCache([*near, *([self.redis.open()] if self.redis is not None else [])])


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """Everything a replica must know to start. `torch_threads` None: as many as there are cores; `pages` None: it computes in none, or
    they are not remembered. `profiles`: the folder of measured speeds; "": none."""

    deployment: str
    stages: tuple[StageSpec, ...]
    cache: CacheSpec
    torch_threads: int | None
    pages: CacheSpec | None = None
    profiles: str = ""
