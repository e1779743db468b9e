"""`triptych cache stats | clear | get`: the Redis instances that a configuration names, or has run on this machine.

Decides what a person sees of them; what is in them is `cache/redis/inspection.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cache.codec import CorruptValue
from cache.redis.inspection import Entry, Inspection, NodeFacts, RedisSilent
from cache.redis.redis_connection import Patience
from cache.redis.redis_link import client_of
from pipelines.commands.console import DEFAULT_CONFIG, ConfigPath, errors, shown
from pipelines.settings.config_file import ServeFile, load
from pipelines.settings.serve.replica_spec import RedisSpec
from pipelines.settings.serve.specs import cache_spec, pages_spec
from stages.contract.errors import ConfigurationError

PATIENCE = Patience(timeout_s=5)
app = typer.Typer(no_args_is_help=True, help="Looks at what is remembered in Redis, and clears it.")


class Instance(StrEnum):
    REDIS = "redis"
    KV = "kv"


Only = Annotated[Instance | None, typer.Option("--only", help="redis: results; kv: pages; left out: both")]


@app.command()
def stats(config: ConfigPath = DEFAULT_CONFIG, only: Only = None) -> None:
    """Memory, entries, evictions and policy of each instance, and what of its settings doesn't suit a cache."""
    console = Console()
    with errors(console):
        file = load(config)
        for setting, spec in _specs(file, only).items():
            with _inspection(setting, spec, file) as instance:
                _print_facts(setting, instance.facts(), console)


@app.command()
def clear(
    config: ConfigPath = DEFAULT_CONFIG,
    only: Only = None,
    yes: Annotated[bool, typer.Option("--yes", help="don't ask")] = False,
) -> None:
    """Forgets all that Triptych has there; what else is there stays. What is in replicas' memory stays, too."""
    console = Console()
    with errors(console):
        file = load(config)
        specs = _specs(file, only)
        if not yes:
            typer.confirm(f"Forget all that is remembered in {' and '.join(specs)}?", abort=True)
        for setting, spec in specs.items():
            with _inspection(setting, spec, file) as instance:
                console.print(f"{setting}: {instance.clear()} keys forgotten", highlight=False)


@app.command()
def get(name: str, config: ConfigPath = DEFAULT_CONFIG) -> None:
    """What is stored under a key (64 hex digits): its kind, its arrays' dtypes and shapes, its size, how long it stays, and whether it is
    sound. Never its numbers."""
    console = Console()
    with errors(console):
        file = load(config)
        seals = _seals(file)
        for setting, spec in _specs(file, None).items():
            with _inspection(setting, spec, file) as instance:
                entry = instance.look(name, seals)
            if entry is not None:
                _print_entry(setting, entry, console)
                return
        raise ConfigurationError(f"nothing is stored under {name!r}")


def _specs(file: ServeFile, only: Instance | None) -> Mapping[str, RedisSpec]:
    """By setting. Raises `ConfigurationError` where there is none."""
    pages = pages_spec(file.app, file.app_name)
    given = {
        Instance.REDIS: cache_spec(file.app, file.app_name).redis,
        Instance.KV: pages.redis if pages is not None else None,
    }
    found = {spec.setting: spec for instance, spec in given.items() if spec is not None and only in (None, instance)}
    if not found:
        raise ConfigurationError("this configuration remembers nothing in Redis there (cache.redis, cache.kv.redis)")
    return found


def _seals(file: ServeFile) -> Mapping[str, str]:
    """By tenant; none where this shell doesn't have the secret."""
    with suppress(ConfigurationError):
        return {f"tenant {tenant}": salt for tenant, salt in file.app.auth.salts().items()}
    return {}


@contextmanager
def _inspection(setting: str, spec: RedisSpec, file: ServeFile) -> Iterator[Inspection]:
    """Raises `ConfigurationError` where the server can't be looked at."""
    where = spec.place()
    try:
        instance = Inspection(client_of(where.url, PATIENCE, private=where.private, cluster=spec.cluster))
    except ValueError:
        raise where.refused() from None
    try:
        yield instance
    except (RedisSilent, CorruptValue) as error:
        hint = f"; is {file.app_name} running on this machine?" if spec.embedded is not None else ""
        raise ConfigurationError(f"{setting}: {error}{hint if isinstance(error, RedisSilent) else ''}") from None
    finally:
        instance.close()


def _print_facts(setting: str, facts: Sequence[NodeFacts], console: Console) -> None:
    table = Table("", *(shown(node.where) for node in facts), title=setting, title_justify="left", box=None)
    rows: dict[str, Sequence[object]] = {
        "server": [node.version for node in facts],
        "memory": [_bytes(node.used_bytes) for node in facts],
        "maxmemory": [_bytes(node.max_bytes) if node.max_bytes else "none" for node in facts],
        "policy": [node.policy for node in facts],
        "entries": [node.entries for node in facts],
        "hits": [node.hits for node in facts],
        "misses": [node.misses for node in facts],
        "evictions": [node.evictions for node in facts],
    }
    for title, values in rows.items():
        table.add_row(title, *("?" if value is None else shown(str(value)) for value in values))
    console.print(table)
    for warning in dict.fromkeys(warning for node in facts for warning in node.warnings):
        console.print(f"[yellow]mind[/yellow]: {shown(warning)}", soft_wrap=True, highlight=False)


def _print_entry(setting: str, entry: Entry, console: Console) -> None:
    told = entry.description
    arrays = ", ".join(f"{name} {dtype} {list(shape)}" for name, dtype, shape in told.arrays) or "none"
    parts = f" in {entry.num_parts} parts" if entry.num_parts else ""
    lasting = "until it is evicted" if entry.ttl_ms is None else f"for {entry.ttl_ms / 1000:.0f} s"
    rows = {
        "in": setting,
        "kind": told.kind or "not told",
        "arrays": arrays,
        "bytes": f"{entry.num_bytes}{parts}",
        "stays": lasting,
        "check": entry.check,
    }
    for title, value in rows.items():
        console.print(f"{title + ':':8}{shown(value)}", soft_wrap=True, highlight=False)


def _bytes(count: int | None) -> str:
    return "?" if count is None else f"{count / 2**20:.1f} MiB"
