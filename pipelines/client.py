"""How a pipeline calls a stage: the same two verbs in one process and over a cluster.

Knows no HTTP and no model. The one-process form is `LocalStageClient`; the cluster's is `pipelines/serve_client.py`.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from stages.host import StageHost
from stages.stage import Item, Reply


class StageClient(Protocol):
    async def call(self, stage: str, item: Item[Any]) -> Reply:
        """Runs a one-shot stage. Cancelling the task withdraws the request."""
        ...

    def stream(self, stage: str, item: Item[Any], *, restartable: bool = False) -> AsyncGenerator[Sequence[object], None]:
        """Runs an iterative stage and yields its events as they come, several at a time; the last is a `StreamEnd`.

        Closing the iterator stops the work. `restartable` says that the caller can bear to see the events again from the start,
        so that a replica's death is survived by running it elsewhere.
        """
        ...


class LocalStageClient:
    """Stages in this very process, with no Ray: for tests and for one-process use."""

    def __init__(self, host: StageHost) -> None:
        self._host = host

    async def call(self, stage: str, item: Item[Any]) -> Reply:
        return await self._host.call(stage, item)

    def stream(self, stage: str, item: Item[Any], *, restartable: bool = False) -> AsyncGenerator[Sequence[object], None]:
        return self._host.stream(stage, item)
