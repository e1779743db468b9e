"""How long a class's requests take in a kind of replica, and what its SLO says of that.

Pure. Decides what a bound on a request's time means for the stages that it visits: of each the time of one item in a full batch, or among
as many other rows as are let in, beside whatever shares the device. That is more than what is seen at the planned utilisation, so a plan
that keeps these bounds has the rest in hand for bursts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pipelines.planning.fleet import Demand, RequestClass
from stages.contract.cost import Speed
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work


class Taken(StrEnum):
    """Which time of a stage counts."""

    ALL = "until it is done"
    FIRST = "until its first output"
    STEP = "of one step"


@dataclass(frozen=True, slots=True)
class Limit:
    """One bound of a class: the times of these stages, together. `setting`: as the workload calls it."""

    of_class: str
    setting: str
    bound_s: float
    path: tuple[tuple[Demand, Taken], ...]

    def taken(self, stage: str) -> tuple[Demand, Taken] | None:
        return next((each for each in self.path if each[0].stage == stage), None)

    def __str__(self) -> str:
        return f"{self.of_class}: {self.setting} {self.bound_s:g}"


def limits(each: RequestClass) -> Iterator[Limit]:
    """Raises `ConfigurationError` for a bound on tokens where no stage of the class says what its first output takes."""
    slo, visited = each.slo, [demand for demand in each.demands if demand.items > 0]
    if slo.total_s is not None:
        yield Limit(each.name, "total_s", slo.total_s, tuple((demand, Taken.ALL) for demand in visited))
    if slo.first_token_s is None and slo.token_s is None:
        return
    answering = next((at for at, demand in enumerate(visited) if demand.first is not None), None)
    if answering is None:
        raise ConfigurationError(
            f"{each.name}: a bound on tokens needs a stage that answers in tokens, and none of its stages does"
        )
    if slo.token_s is not None:
        yield Limit(each.name, "token_s", slo.token_s, ((visited[answering], Taken.STEP),))
    if slo.first_token_s is not None:
        before = tuple((demand, Taken.ALL) for demand in visited[:answering])
        yield Limit(each.name, "first_token_s", slo.first_token_s, (*before, (visited[answering], Taken.FIRST)))


def heaviest(classes: tuple[RequestClass, ...]) -> Mapping[str, Work]:
    """By stage, the work with the most in a step: what a newcomer is taken to share its steps with."""
    found: dict[str, Work] = {}
    for demand in (demand for each in classes for demand in each.demands if demand.items > 0):
        known = found.get(demand.stage)
        if known is None or known.amount / known.steps < demand.work.amount / demand.work.steps:
            found[demand.stage] = demand.work
    return found


def full_step_s(speed: Speed, beside: Work) -> float:
    return speed.step_s(min(speed.max_rows * beside.amount / beside.steps, speed.max_amount))


def taken_s(demand: Demand, taken: Taken, speed: Speed, beside: Work, pause_s: float, fraction: float) -> float:
    """Seconds in a replica with this `fraction` of a device, all of whose places are taken by such work as `beside`, and where
    `pause_s` passes between two steps because other stages have theirs."""
    work = demand.first if taken is Taken.FIRST and demand.first is not None else demand.work
    company = speed.max_rows - 1
    if taken is Taken.STEP:
        own = work.amount / work.steps
        amount = own + company * beside.amount / beside.steps
        return (speed.step_s(min(amount, max(speed.max_amount, own))) + pause_s) / fraction
    return (speed.finish_s(work, beside * company, company) + work.steps * pause_s) / fraction
