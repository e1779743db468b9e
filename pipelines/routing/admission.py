"""Whether a request can end in time, before anything is started for it.

Decides by an upper quantile of when it is expected to end, not by the mean: admitted to the edge, half of the requests would end late,
having used up the devices' time all the same. What is not urgent is admitted while there is ample time only, so that it never takes the
place of what is. Who would find devices idle is admitted in any case: waiting makes it no sooner, and only trying tells whether what is
known of its time is right. What is refused is held a place (`waitlist.py`), and when it comes for that, a less high quantile is enough: it
was told that there would be room. A tenant's flood is a long line for itself only; by how much
items miss what is expected is learned from tenants who have no more than their part. Pure; knows no stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.routing.candidate import Ranked
from stages.contract.cost import Speed
from stages.contract.work import Work

ONE = Work(1.0, 1.0)
IDLE = 0.01
"""Waiting for less than this part of the whole is none."""


@dataclass(frozen=True, slots=True)
class Admission:
    """`quantile`: of when a request ends, that must be in time. `background_part`: which part of its time what is not urgent (priority
    over 0) may count on. `margin`: how much longer than expected that quantile is at least, also where nothing was seen yet."""

    quantile: float = 0.99
    background_part: float = 0.5
    margin: float = 1.1

    @property
    def promised_quantile(self) -> float:
        """As `quantile`, for who comes when it was told to: ten times as many may end late, but no more than half."""
        return min(self.quantile, max(0.5, 1 - 10 * (1 - self.quantile)))


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one request, over all stages that it visits. Seconds: expected, by an upper quantile, with nothing else to do, and by the
    quantile of who was told to come."""

    finish_s: float
    quantile_s: float
    alone_s: float
    promised_s: float


@dataclass(frozen=True, slots=True)
class Lateness:
    """Of one request, if it were let in now. `late_s`: by how much longer than the `allowed_s` that it may count on it takes (under 0: so
    much is left over); `promised_late_s`: the same of who comes when it was told to. `is_idle`: nothing is before it. `is_hopeless`: it
    would be late with nothing before it, too."""

    late_s: float
    promised_late_s: float
    allowed_s: float
    is_idle: bool
    is_hopeless: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """`retry_after_s`: when it could be admitted, if nothing else comes."""

    retry_after_s: float
    why: str


def forecast(visits: Sequence[Ranked], settings: Admission = Admission()) -> Forecast:
    """`visits`: the best replica of every stage, one after the other; late at one, it may be early at another, but they are late together
    where devices are shared: quantiles are added."""
    return Forecast(
        finish_s=sum(visit.finish_s for visit in visits),
        quantile_s=sum(_quantile_s(visit, settings.quantile, settings.margin) for visit in visits),
        promised_s=sum(_quantile_s(visit, settings.promised_quantile, settings.margin) for visit in visits),
        alone_s=sum(visit.alone_s for visit in visits),
    )


def _quantile_s(visit: Ranked, quantile: float, margin: float) -> float:
    """Where a request is to be refused, others come as soon as any end. What it takes beside the device is no longer where lines are."""
    beside_s = min(visit.speed.beside_s, visit.finish_s)
    return max(visit.crowded_s, beside_s + (visit.finish_s - beside_s) * _lateness(visit.speed, quantile, margin))


def _lateness(speed: Speed, quantile: float, margin: float) -> float:
    """By how many times what is expected the quantile is over it."""
    return max(margin, speed.finish_quantile_s(ONE, quantile=quantile) / speed.finish_s(ONE))


def lateness(expected: Forecast, left_s: float, *, priority: int = 0, settings: Admission = Admission()) -> Lateness:
    """`left_s`: until its deadline."""
    allowed_s = left_s * settings.background_part if priority > 0 else left_s
    waits_s = expected.finish_s - expected.alone_s
    is_hopeless = settings.margin * expected.alone_s > allowed_s
    late_s, promised_late_s = expected.quantile_s - allowed_s, expected.promised_s - allowed_s
    return Lateness(late_s, promised_late_s, allowed_s, waits_s <= IDLE * expected.finish_s, is_hopeless)


def admit(expected: Forecast, left_s: float, *, priority: int = 0, settings: Admission = Admission()) -> Refusal | None:
    """None: it is admitted. `left_s`: until its deadline. Where nobody is held a place."""
    late = lateness(expected, left_s, priority=priority, settings=settings)
    if late.late_s <= 0 or late.is_idle:
        return None
    return Refusal(min(late.late_s, expected.quantile_s), said_of(expected, late))


def said_of(expected: Forecast, late: Lateness) -> str:
    """Why it is refused."""
    if late.late_s > 0:
        return (
            f"it would take about {expected.finish_s:.1f} s, up to {expected.quantile_s:.1f} s, and has {late.allowed_s:.1f} s"
        )
    return "others were refused before it, and told to come back by now"
