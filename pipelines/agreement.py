"""Which files a model's requests are made for, said to every stage that takes part: tokens, names and sizes follow from what this process
read, and are worth nothing where a stage was loaded from something else.

Decides nothing about what follows: a stage that differs refuses (`stages/host/host.py`). Knows no HTTP and no model.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.client import StageClient, Visit
from stages.contract.item import DEFAULT_TENANT, Item, Reply


class AgreeingClient:
    """`StageClient` over another one. `made_for`: by stage, the digest of the files that this process read of it."""

    def __init__(self, client: StageClient, made_for: Mapping[str, str]) -> None:
        self._client, self._made_for = client, dict(made_for)

    def admit(
        self,
        visits: Sequence[Visit],
        *,
        deadline: float,
        priority: int = 0,
        tenant: str = DEFAULT_TENANT,
        asked: str = "",
    ) -> None:
        self._client.admit(visits, deadline=deadline, priority=priority, tenant=tenant, asked=asked)

    def forecast(self, visits: Sequence[Visit], *, priority: int = 0, tenant: str = DEFAULT_TENANT) -> float | None:
        return self._client.forecast(visits, priority=priority, tenant=tenant)

    async def call(self, stage: str, item: Item[Any], **options: Any) -> Reply[Any]:
        return await self._client.call(stage, self._agreed(item), **options)

    def stream(self, stage: str, item: Item[Any], **options: Any) -> AsyncGenerator[Sequence[object], None]:
        return self._client.stream(stage, self._agreed(item), **options)

    def _agreed(self, item: Item[Any]) -> Item[Any]:
        return replace(item, made_for=self._made_for)
