"""Between a request and what is counted of it: lets it in by its tenant's quotas or refuses it, and at its end charges what it used.

Decides what a refusal says, and the headers that tell a client what is left (OpenAI's: `x-ratelimit-*-requests`). Which numbers refuse is
`quotas.py`, what is summed up `usage.py`, what other HTTP replicas are told `shared_counts.py`. On one event loop. Knows no routes.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipelines.context import RequestContext
from pipelines.ingress.tenants.quotas import CONCURRENT, DEVICE_SECONDS, Quotas, Refusal
from pipelines.ingress.tenants.usage import NOTHING, Spent, UsageTotals, day_of, spent_by
from pipelines.settings.schema.auth import QuotaConfig
from stages.contract.errors import Overloaded

Tell = Callable[[str, Spent, str], None]
"""Of a tenant: what was used, and the quota that refused it (""; none did)."""

METERED = "metered"
"""Where in a scope's state a `Metered` stands."""
LIMIT, REMAINING, RESET = (f"x-ratelimit-{name}-requests" for name in ("limit", "remaining", "reset"))


class QuotaExceeded(Overloaded):
    """The tenant has used what it may."""

    code = "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Metered:
    """A request of a tenant's, from where it was let in or refused. `refusal`: the quota that refused it. `headers`: what is left of its
    tenant's requests. `is_waited_for`: by a client; else it was let in when it was submitted, and devices' time alone holds it up. `num`:
    how many requests it is; 0: a part of one that is counted already."""

    context: RequestContext
    began: float
    is_waited_for: bool = True
    num: int = 1
    refusal: Refusal | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Meter:
    """`tell`: who else counts what was used. `clock`: monotonic seconds, for what a minute holds. `wall_clock`: seconds since 1970, for
    days."""

    def __init__(
        self,
        tell: Tell = lambda tenant, spent, quota: None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._tell, self._clock, self.wall_clock = tell, clock, wall_clock
        self.quotas, self.usage = Quotas(), UsageTotals()

    def limit(self, quotas: Mapping[str, QuotaConfig]) -> None:
        """Judges what comes from now on by these; what was charged stays so."""
        self.quotas.limits = quotas

    def begin(self, context: RequestContext, *, is_waited_for: bool = True, num: int = 1) -> Metered:
        """Never raises: `refused` says what is to be told of one that is not let in. `end` is to be called of either."""
        now = self._clock()
        refusal = self.quotas.begin(context.tenant, now, is_waited_for=is_waited_for)
        left = self.quotas.left(context.tenant, now) if is_waited_for else None
        headers = {LIMIT: str(left.limit), REMAINING: str(left.remaining), RESET: told_s(left.reset_s)} if left else {}
        return Metered(context, now, is_waited_for, num, refusal, headers)

    def end(self, metered: Metered) -> None:
        """Charges what it used to its tenant. Of what was refused nothing is charged, and where nobody heard that, nothing counted."""
        tenant, quota = metered.context.tenant, metered.refusal.quota if metered.refusal is not None else ""
        if quota:
            spent = Spent(refused=1) if metered.is_waited_for else NOTHING
        else:
            spent, now = spent_by(metered.context, requests=metered.num), self._clock()
            self.quotas.end(
                tenant,
                now,
                device_s=spent.device_seconds,
                took_s=now - metered.began,
                is_waited_for=metered.is_waited_for,
            )
        if spent != NOTHING:
            self.usage.add(day_of(self.wall_clock()), tenant, spent)
            self._tell(tenant, spent, quota)


def refused(refusal: Refusal) -> QuotaExceeded:
    """What its client is told."""
    limit = f"{refusal.limit:g}"
    if refusal.quota == CONCURRENT:
        said = f"{refusal.used:g} requests of this tenant are being answered, and at most {limit} may be"
    elif refusal.quota == DEVICE_SECONDS:
        said = (
            f"of devices' time this tenant's requests have taken {refusal.used:.3g} s that it has yet to make up for, and {limit} s a "
            "minute are its own"
        )
    else:
        said = f"this tenant has asked as often as it may, which is {limit} times a minute"
    wait_s = math.ceil(refusal.wait_s * 1000) / 1000
    return QuotaExceeded(f"{said} (auth.quotas.*.{refusal.quota}); try again in {wait_s:g} s", retry_after_s=wait_s)


def told_s(seconds: float) -> str:
    """As OpenAI's headers tell a time: 820ms, 12s, 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
