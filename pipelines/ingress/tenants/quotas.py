"""Whether a tenant may ask now, and if not, when: by what it has been let to ask, what its requests took of devices, and how many of
them run.

Pure: knows no HTTP, no clock and no store. What a minute holds is a leaky bucket (Turner 1986; the token bucket seen from below): what
was charged drains evenly, and whoever would go over a minute's worth waits until so much has drained. So a tenant that was silent may
ask a minute's worth at once, and in the long run gets its quota. What a request takes of devices is known when it is through, and charged
then: a tenant that has overdrawn waits until that has drained, for more than a minute if need be.

Several HTTP replicas: each decides by itself, at once, and hears of the others now and then (`hear`): what they have charged since, and
what runs there. Between two times it knows nothing of what they let in: of n replicas together at most n times what was left of a quota
when they last heard of each other. That is charged to all of them as soon as they hear, so that the long run's quota holds.
`shared_counts.py` says how often that is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.settings.schema.auth import QuotaConfig

MINUTE_S = 60.0
REQUESTS, DEVICE_SECONDS, CONCURRENT = "requests_per_minute", "device_seconds_per_minute", "concurrent_requests"
QUOTAS = (REQUESTS, DEVICE_SECONDS, CONCURRENT)
FIRST_GUESS_S, LONGEST_GUESS_S = 1.0, 60.0
_NEW_WEIGHT = 0.2  # of the newest request, in how long requests take
_ROUNDING = 1e-9  # of a quota: sums of what drains are not exact


@dataclass(slots=True)
class Bucket:
    """`level`: what was charged and has not drained, at the time `at`. `charged`: in all, here. `idle`: what could have drained since
    others were last heard of, and was not there."""

    level: float = 0.0
    at: float = 0.0
    charged: float = 0.0
    idle: float = 0.0

    def drain(self, per_minute: float, now: float) -> None:
        """`now` in seconds; a clock that goes back drains nothing."""
        could = per_minute / MINUTE_S * max(0.0, now - self.at)
        self.idle += max(0.0, could - self.level)
        self.level, self.at = max(0.0, self.level - could), now

    def charge(self, amount: float) -> None:
        self.level += amount
        self.charged += amount

    def hear(self, amount: float) -> None:
        """What others have charged since they were last heard of, of which some has drained."""
        self.level += max(0.0, amount - self.idle)
        self.idle = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """What a process tells of a tenant: charged since the process began, what its buckets hold, and how many requests run there."""

    requests: float = 0.0
    device_s: float = 0.0
    requests_level: float = 0.0
    device_s_level: float = 0.0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """By which quota, what it allows, what there is, and in how many seconds there is room."""

    quota: str
    limit: float
    used: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Left:
    """Of `requests_per_minute`. `reset_s`: until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class _Account:
    requests: Bucket
    device_s: Bucket
    running: int = 0
    running_elsewhere: int = 0
    typical_s: float = FIRST_GUESS_S


@dataclass(slots=True)
class Quotas:
    """Of all tenants that have some, in one process. `limits` may be set anew at any time. Times are of one clock, in seconds."""

    limits: Mapping[str, QuotaConfig] = field(default_factory=dict)
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _heard: dict[str, Mapping[str, Told]] = field(default_factory=dict)  # by process
    _has_heard: bool = False

    def begin(self, tenant: str, now: float, *, is_waited_for: bool = True) -> Refusal | None:
        """None: it is let in, and counted. Not `is_waited_for`: work that was let in when it was submitted, such as a line of a batch:
        only devices' time holds it up. What is refused costs nothing."""
        limits = self.limits.get(tenant)
        if limits is None:
            return None
        account = self._drained(tenant, limits, now)
        refusals = [found for found in _refusals(limits, account) if is_waited_for or found.quota == DEVICE_SECONDS]
        if refusals:
            return max(refusals, key=lambda found: found.wait_s)
        if is_waited_for:
            account.requests.charge(1)
            account.running += 1
        return None

    def end(self, tenant: str, now: float, *, device_s: float, took_s: float = 0.0, is_waited_for: bool = True) -> None:
        """Of one that was let in. `took_s`: from `begin` to now."""
        limits = self.limits.get(tenant)
        if limits is None:
            return
        account = self._drained(tenant, limits, now)
        account.device_s.charge(device_s)
        if is_waited_for:
            account.running = max(0, account.running - 1)  # it may have begun before there were quotas
            account.typical_s += _NEW_WEIGHT * (took_s - account.typical_s)

    def left(self, tenant: str, now: float) -> Left | None:
        """None: its requests are not counted."""
        limits = self.limits.get(tenant)
        if limits is None or limits.requests_per_minute is None:
            return None
        limit, level = limits.requests_per_minute, self._drained(tenant, limits, now).requests.level
        return Left(limit, max(0, math.floor(limit - level + limit * _ROUNDING)), level / limit * MINUTE_S)

    def told(self, now: float) -> dict[str, Told]:
        """For other processes, by tenant."""
        found: dict[str, Told] = {}
        for tenant, limits in self.limits.items():
            if tenant in self._accounts:
                account = self._drained(tenant, limits, now)
                requests, device_s = account.requests, account.device_s
                found[tenant] = Told(requests.charged, device_s.charged, requests.level, device_s.level, account.running)
        return found

    def hear(self, others: Mapping[str, Mapping[str, Told]], now: float) -> None:
        """What each other process tells now; who is not among them is gone. Of a process that is new here only counts what it charges from
        now on, and what it knows: whoever begins takes the others' word for what went before."""
        for tenant, limits in self.limits.items():
            told = {process: tenants[tenant] for process, tenants in others.items() if tenant in tenants}
            if told or tenant in self._accounts:
                self._hear_of(self._drained(tenant, limits, now), tenant, told)
        self._heard = dict(others)
        self._has_heard = True

    def lose_others(self) -> None:
        """Nobody knows what they do now. What they charge meanwhile is forgiven: it may be hours' worth."""
        self._heard, self._has_heard = {}, False
        for account in self._accounts.values():
            account.running_elsewhere = 0

    def _hear_of(self, account: _Account, tenant: str, told: Mapping[str, Told]) -> None:
        before = {process: self._before(process, tenant, now) for process, now in told.items()}
        account.requests.hear(sum(max(0.0, now.requests - before[name].requests) for name, now in told.items()))
        account.device_s.hear(sum(max(0.0, now.device_s - before[name].device_s) for name, now in told.items()))
        account.running_elsewhere = sum(now.running for now in told.values())
        if not self._has_heard:
            account.requests.level = max(account.requests.level, *(now.requests_level for now in told.values()), 0.0)
            account.device_s.level = max(account.device_s.level, *(now.device_s_level for now in told.values()), 0.0)

    def _before(self, process: str, tenant: str, now: Told) -> Told:
        """What it told last; of one that wasn't heard of, what it tells now."""
        known = self._heard.get(process)
        return now if known is None else known.get(tenant, Told())

    def _drained(self, tenant: str, limits: QuotaConfig, now: float) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(Bucket(at=now), Bucket(at=now))
        for bucket, per_minute in (
            (account.requests, limits.requests_per_minute),
            (account.device_s, limits.device_seconds_per_minute),
        ):
            if per_minute is not None:
                bucket.drain(per_minute, now)
            else:
                bucket.level = 0.0
        return account


def _refusals(limits: QuotaConfig, account: _Account) -> Sequence[Refusal]:
    running = account.running + account.running_elsewhere
    found: list[Refusal] = []
    if limits.concurrent_requests is not None and running >= limits.concurrent_requests:
        wait_s = min(LONGEST_GUESS_S, max(0.1, account.typical_s / limits.concurrent_requests))
        found.append(Refusal(CONCURRENT, limits.concurrent_requests, running, wait_s))
    for quota, limit, bucket, room in (
        (REQUESTS, limits.requests_per_minute, account.requests, 1.0),
        (DEVICE_SECONDS, limits.device_seconds_per_minute, account.device_s, 0.0),
    ):
        over = 0.0 if limit is None else bucket.level + room - limit
        if limit is not None and over > limit * _ROUNDING:
            found.append(Refusal(quota, limit, bucket.level, over / limit * MINUTE_S))
    return found
