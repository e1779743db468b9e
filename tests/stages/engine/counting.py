"""Rows of an engine that counts down."""

from typing import Any

from stages.contract.engine import Handle
from tests.stages.bench import CountingEngine, submit
from tests.stages.fakes import CountFrom, Inbox


def count(engine: CountingEngine, start: int, key: str = "a", **item: Any) -> tuple[Inbox, Handle]:
    return submit(engine, CountFrom(start, key), **item)
