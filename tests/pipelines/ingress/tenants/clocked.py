"""HTTP processes whose quotas and days go by a test's clock."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from cache.store import MemoryStore
from pipelines.ingress.app import Kept
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.tenants.meter import Meter
from pipelines.ingress.tenants.shared_counts import SharedCounts
from pipelines.settings.schema.auth import QuotaConfig
from tests.pipelines.ingress.kept.workers import Clock
from tests.pipelines.ingress.surface import chat_body

TENANTS = ("ada", "bob", "root")
DAY = "2026-03-01"
NOON_S = 1_772_366_400.0  # of that day


def several(quotas: Mapping[str, Mapping[str, float]] | None = None) -> IngressSettings:
    """Settings for three tenants, of which root sees all."""
    return IngressSettings(
        keys={hashlib.sha256(tenant.encode()).hexdigest(): tenant for tenant in TENANTS},
        secret=b"a secret",
        operators=frozenset({"root"}),
        quotas={tenant: QuotaConfig.model_validate(given) for tenant, given in (quotas or {}).items()},
    )


def clocked(settings: IngressSettings, clock: Clock, store: MemoryStore | None = None) -> Kept:
    """Days go by the same clock, from a noon on."""
    kept, begun = Kept.new(settings, store=store), clock()
    meter = Meter(kept.metrics.used, clock=clock, wall_clock=lambda: NOON_S + clock() - begun)
    shared = SharedCounts(meter, kept.values, settings.server(), clock=clock)
    return replace(kept, meter=meter, shared=shared)


def key(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {tenant}"}


async def chat(client: httpx.AsyncClient, tenant: str = "ada", **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(**fields), headers=key(tenant))
