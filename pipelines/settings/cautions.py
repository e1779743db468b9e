"""What a configuration allows and its user should know of: it works, and may not be what they want.

Pure. What cannot work is refused in `pipelines/settings/derived.py`. Decides nothing that is done.
"""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

from pipelines.settings.pools import unlike
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.schema.remembering import RedisConfig


def cautions(config: AppConfig) -> Sequence[str]:
    """A line each: path, what it means, what to set."""
    return [*_forgeable(config), *_shared(config), *_unverified(config), *_apart(config), *unlike(config)]


def unreachable(config: AppConfig, num_nodes: int) -> Sequence[str]:
    """What the embedded servers can't do on a Ray cluster of so many nodes."""
    embedded = [f"{setting}.url" for setting, redis in _instances(config).items() if redis.is_embedded]
    return [only_its_node(setting, num_nodes) for setting in embedded if num_nodes > 1]


def only_its_node(setting: str, num_nodes: int) -> str:
    return (
        f"{setting}: embedded is a server on one of this cluster's {num_nodes} nodes, which only processes on that node reach: replicas on "
        "the others remember in their own memory and share nothing. Name a server for all of them (redis://, rediss://)"
    )


def _forgeable(config: AppConfig) -> Iterator[str]:
    elsewhere = [setting for setting, redis in _instances(config).items() if not redis.is_embedded]
    if elsewhere and config.auth.secret_env is None and config.auth.secret_file is None:
        yield (
            f"{elsewhere[0]}: what is remembered there is sealed with auth.secret_env or auth.secret_file, and neither is set: whoever can "
            "write to that Redis can put words into answers. Set one (`openssl rand -hex 32` makes a secret)"
        )


def _shared(config: AppConfig) -> Iterator[str]:
    found = _instances(config)
    places = {(redis.url, redis.url_env, redis.url_file) for redis in found.values()}
    if len(found) > 1 and len(places) == 1 and not any(redis.is_embedded for redis in found.values()):
        yield "cache.kv.redis: the same server as cache.redis: pages will drive out everything else. Give it an instance of its own"


def _unverified(config: AppConfig) -> Iterator[str]:
    for setting, redis in _instances(config).items():
        given = parse_qs(urlsplit(redis.url).query)
        if given.get("ssl_cert_reqs", ["required"]) != ["required"] or "false" in map(
            str.lower, given.get("ssl_check_hostname", [])
        ):
            yield f"{setting}.url: the server's certificate is not verified; name the authority that signed it (ssl_ca_certs=PATH) instead"


def _apart(config: AppConfig) -> Iterator[str]:
    num = config.ingress.num_replicas
    if config.auth.quotas and num > 1 and config.cache.redis is None:
        yield (
            f"auth.quotas: each of {num} HTTP replicas counts alone, so that a tenant may have {num} times what they say. Name a server "
            "through which they tell each other (cache.redis.url)"
        )


def _instances(config: AppConfig) -> Mapping[str, RedisConfig]:
    kv = config.cache.kv
    given = {"cache.redis": config.cache.redis, "cache.kv.redis": kv.redis if kv is not None else None}
    return {setting: redis for setting, redis in given.items() if redis is not None}
