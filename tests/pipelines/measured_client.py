"""A stage client that weighs what comes back through it, as it would travel from another process, and admits or refuses as it is told."""

import pickle
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from pipelines.client import Again, StageClient, Visit
from stages.contract.errors import TriptychError
from stages.contract.item import DEFAULT_TENANT, Item, Reply


class MeasuredClient:
    def __init__(self, client: StageClient) -> None:
        self._client = client
        self.bytes_from: dict[str, int] = {}
        self.items: list[Item[Any]] = []
        self.visits: list[Visit] = []
        self.refusal: TriptychError | None = None
        self.forecast_s: float | None = None

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        self.visits += visits
        if self.refusal is not None:
            raise self.refusal

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        self.visits += visits
        return self.forecast_s

    async def call(self, stage: str, item: Item[Any], *, lost: set[str] | None = None) -> Reply[Any]:
        self.items.append(item)
        reply = await self._client.call(stage, item, lost=lost)
        self._weigh(stage, reply)
        return reply

    async def stream(
        self, stage: str, item: Item[Any], *, again: Again | None = None, lost: set[str] | None = None
    ) -> AsyncGenerator[Sequence[object], None]:
        self.items.append(item)
        async with aclosing(self._client.stream(stage, item, again=again, lost=lost)) as batches:
            async for events in batches:
                self._weigh(stage, events)
                yield events

    def _weigh(self, stage: str, value: object) -> None:
        self.bytes_from[stage] = self.bytes_from.get(stage, 0) + len(pickle.dumps(value))
