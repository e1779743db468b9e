"""Stages elsewhere, without a cluster: a `StageCaller` over another host, in the test's hands."""

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from stages.contract.errors import TriptychError
from stages.contract.item import Item, Reply
from stages.host.deadlines import remaining_s, too_late
from stages.host.host import StageHost


class PoolsElsewhere:
    """Of each pool a host, by its name; `asked` is the one that calls go to. It knows which there are, and receipts name them."""

    def __init__(self, **hosts: StageHost) -> None:
        self.hosts = hosts
        self.asked = next(iter(hosts))
        self.num_calls = 0

    def pools(self, stage: str) -> Collection[str]:
        return self.hosts

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        self.num_calls += 1
        reply = await self.hosts[self.asked].call(stage, item)
        return replace(reply, receipt=replace(reply.receipt, pool=self.asked))


class Elsewhere:
    """Notes every item that it is given. `host` may be replaced. `hold` keeps calls from reaching it; `broken` is what calls get
    instead. As a client over a cluster does, it ends a call at the deadline that the item had when it was made."""

    def __init__(self, host: StageHost) -> None:
        self.host = host
        self._open = asyncio.Event()
        self._open.set()
        self.items: list[Item[Any]] = []
        self.num_cancelled = 0
        self.broken: TriptychError | None = None

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def call(self, stage: str, item: Item[Any]) -> Reply[Any]:
        self.items.append(item)
        try:
            async with asyncio.timeout(remaining_s(item)):
                await self._open.wait()
                if self.broken is not None:
                    raise self.broken
                return await self.host.call(stage, item)
        except TimeoutError:
            raise too_late(f"it was with {stage}") from None
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
