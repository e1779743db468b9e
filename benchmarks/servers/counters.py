"""A served Triptych's own account of a stage, before and after a load: steps, rows a step, the device's share of the time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx

REPORTED_AFTER_S = 1.5  # replicas report every second


@dataclass(frozen=True, slots=True)
class StageCounts:
    """Over all replicas, since they started."""

    device_s: float
    batches: float
    items: float

    def since(self, before: StageCounts) -> StageCounts:
        return StageCounts(self.device_s - before.device_s, self.batches - before.batches, self.items - before.items)

    @property
    def batch_s(self) -> float:
        """Mean seconds of one batch (or step)."""
        return self.device_s / self.batches if self.batches else 0.0

    @property
    def batch_size(self) -> float:
        return self.items / self.batches if self.batches else 0.0


async def stage_counts(client: httpx.AsyncClient, stage: str) -> StageCounts:
    """To be asked when the stage is at rest: waits until the last report has come."""
    await asyncio.sleep(REPORTED_AFTER_S)
    page = (await client.get("/metrics")).text
    return StageCounts(
        _total(page, "triptych_stage_device_seconds_total", stage),
        _total(page, "triptych_stage_batches_total", stage),
        _total(page, "triptych_stage_batch_items_total", stage),
    )


def _total(page: str, name: str, stage: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(f"{name}{{") and f'stage="{stage}"' in line]
    if not lines:
        raise RuntimeError(f"/metrics has no {name} of {stage}")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
