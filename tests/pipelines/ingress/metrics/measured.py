"""The HTTP surface's `Service` over real engines, which tell what they count."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from stages.contract.item import StageMetrics
from tests.pipelines.ingress.staged import Staged


class Measured(Staged):
    """Tells what its stages count."""

    async def stage_metrics(self) -> Sequence[StageMetrics]:
        return [replace(stage, pool=f"{stage.stage}-pool") for stage in self.host.metrics()]


@asynccontextmanager
async def measured() -> AsyncIterator[Measured]:
    service = Measured()
    for stage in (service.embedder, service.llm, service.denoiser):
        stage.refusing.open()
        stage.gate.open()
    try:
        yield service
    finally:
        await service.close()
