"""Where results and pages are remembered, as the configuration says it: memory, and Redis. Decides what may be said of a Redis, and which
one pages go to where nobody says. Knows no tier."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator, model_validator

from pipelines.settings.schema.strict import Strict

EMBEDDED = "embedded"
KINDS = ("vision_features", "embedding", "prompt_embedding", "latents", "pixels", "kv_page", "step_state")
"""Of the values that stages make (`Result.kind`)."""


class RedisConfig(Strict):
    """The shared tier. `url`: "embedded" (one machine: a server of our own on a private socket), redis://, rediss:// or unix://.
    `url_env`, `url_file`: the environment variable or the file, on every machine, that holds it; for a URL with a password, which
    Serve would show."""

    url: str = Field(EMBEDDED, pattern=r"^(embedded$|redis://|rediss://|unix://)")
    url_env: str | None = Field(None, min_length=1)
    url_file: str | None = Field(None, min_length=1)
    cluster: bool = Field(False, description="the URL is of one node of a Redis Cluster, which names the others")
    max_memory_bytes: int = Field(256 * 2**20, ge=2**20, description="of the embedded server")
    part_bytes: int = Field(8 * 2**20, ge=1024, description="a larger value goes in parts of so many bytes")
    max_value_bytes: int = Field(64 * 2**20, ge=1024, description="a larger value is not kept there")
    ttl_s: float | None = Field(None, gt=0, description="how long a value is kept; None: until the server needs its room")
    ttl_s_of: dict[str, Annotated[float, Field(gt=0)]] = Field({}, description="kind of value -> ttl_s, where that is another")

    @field_validator("ttl_s_of")
    @classmethod
    def kinds_are_known(cls, given: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(given) - set(KINDS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of the kinds of values: {', '.join(KINDS)}")
        return given

    @field_validator("url")
    @classmethod
    def holds_no_password(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("not a URL") from None
        if "@" in parts.netloc or {"password", "username"} & set(parse_qs(parts.query)):
            raise ValueError(
                "it holds a name or a password, which Serve would show; put the whole URL into an environment variable or a file, "
                "and name that in url_env or url_file"
            )
        return url

    @model_validator(mode="after")
    def one_url(self) -> "RedisConfig":
        if sum((self.url != EMBEDDED, self.url_env is not None, self.url_file is not None)) > 1:
            raise ValueError("give one of url, url_env, url_file")
        if self.cluster and (self.is_embedded or self.url.startswith("unix:")):
            raise ValueError("cluster is for a server elsewhere, at redis:// or rediss://")
        return self

    @property
    def is_embedded(self) -> bool:
        return self.url_env is None and self.url_file is None and self.url == EMBEDDED


def _is_embedded(redis: Any) -> bool:
    """Whether what is given of `cache.redis` is, as far as it can be read; None: there is none."""
    if isinstance(redis, RedisConfig):
        return redis.is_embedded
    if isinstance(redis, Mapping):
        return not (redis.get("url_env") or redis.get("url_file")) and redis.get("url", EMBEDDED) == EMBEDDED
    return redis is not None


class KvRedisConfig(RedisConfig):
    """The same, with room for pages: a prefix of 1,500 tokens of the demo's LLM has 69 MB."""

    max_memory_bytes: int = Field(512 * 2**20, ge=2**20, description="of the embedded server")


class KvConfig(Strict):
    """Where rows that begin where others left off find their pages: an LLM's keys and values, a denoiser's states. `redis`: an instance
    of its own, since pages would drive everything else out of one that they share; left out: embedded where `cache.redis` is, and
    else none."""

    memory_bytes: int = Field(256 * 2**20, ge=0, description="in each replica that computes in pages")
    redis: KvRedisConfig | None = KvRedisConfig()


class CacheConfig(Strict):
    """Where results are remembered, and pages (`kv`; null: they are not)."""

    memory_bytes: int = Field(128 * 2**20, ge=0, description="in each replica")
    redis: RedisConfig | None = RedisConfig()
    kv: KvConfig | None = KvConfig()

    @model_validator(mode="before")
    @classmethod
    def pages_have_an_instance_of_their_own(cls, given: Any) -> Any:
        """What is left out of `kv.redis`."""
        if not isinstance(given, Mapping) or _is_embedded(given.get("redis", {})):
            return given
        kv = given.get("kv", {})
        return {**given, "kv": {"redis": None, **kv}} if isinstance(kv, Mapping) else given
