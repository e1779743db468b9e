"""GET /v1/usage: daily totals of a tenant. Decides who is shown whose."""

import re
from dataclasses import dataclass

from fastapi import Request, Response

from pipelines.ingress.body.bodies import shown
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.errors import json_response
from pipelines.ingress.schemas.usage import UsageDay, UsageList
from pipelines.ingress.tenants.shared_counts import SharedCounts
from pipelines.ingress.tenants.usage import KEEP_DAYS, Spent
from stages.contract.errors import InvalidRequest

_NUMBER = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True, slots=True)
class UsageRoute:
    arrival: Arrival
    counts: SharedCounts

    async def __call__(self, request: Request, days: str) -> Response:
        tenant = self.arrival.identify(request).tenant
        sees_all = self.arrival.settings.sees_all(tenant)
        found = await self.counts.usage(self.counts.last_days(_num_days(days)))
        told = [
            _day(day, each, spent)
            for day, tenants in found.items()
            for each, spent in sorted(tenants.items())
            if sees_all or each == tenant
        ]
        return json_response(UsageList(object="list", data=told, survives=self.counts.survives).to_json())


def _num_days(given: str) -> int:
    """Raises `InvalidRequest`."""
    if not _NUMBER.fullmatch(given) or not 1 <= int(given) <= KEEP_DAYS:
        raise InvalidRequest(f"days must be a number from 1 to {KEEP_DAYS} (given: {shown(given)})", param="days")
    return int(given)


def _day(day: str, tenant: str, spent: Spent) -> UsageDay:
    return UsageDay(
        date=day,
        tenant=tenant,
        requests=spent.requests,
        refused=spent.refused,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        device_seconds=round(spent.device_seconds, 6),
        stages={stage: round(seconds, 6) for stage, seconds in spent.device_s.items()},
    )
