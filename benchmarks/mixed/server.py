"""The server that a mixed load goes to: as shipped, with one replica of each stage, whose processes can be told from all others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.mixed.requests import SEE
from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.triptych import Config, fixed, model_of, served, shipped_config


def config(application: str, *, memory_bytes: int | None = None, **limits: object) -> Config:
    """The language model computes in float32, so that an answer is the same beside others. `memory_bytes`: of each of the caches, in
    memory and in Redis, another than shipped; `limits`: other ones than shipped."""
    found = shipped_config()
    found["applications"][0]["name"] = application
    args = found["applications"][0]["args"]
    args["limits"] |= limits
    if memory_bytes is not None:
        redis = {"url": "embedded", "max_memory_bytes": memory_bytes}
        args["cache"] |= {"memory_bytes": memory_bytes, "redis": redis, "kv": {"memory_bytes": memory_bytes, "redis": redis}}
    model_of(found, SEE)["llm"]["dtype"] = "float32"
    for deployment in args["deployments"]:
        fixed(found, deployment)
    return found


@contextmanager
def one_of_each(
    application: str, *, memory_bytes: int | None = None, env: Mapping[str, str] | None = None, **limits: object
) -> Iterator[Server]:
    """`env`: of the server, beside this process's own."""
    mark = new_mark()
    with served(config(application, memory_bytes=memory_bytes, **limits), env={**(env or {}), MARK: mark}) as url:
        yield Server(url, application, mark)


def new_mark() -> str:
    """Unlike that of any other server."""
    return uuid.uuid4().hex
