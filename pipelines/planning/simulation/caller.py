"""A process that calls stages, in virtual time: one that requests come to, or a replica that needs a result of another stage.

Decides when a call is made again: after a pause where nobody had room, or where its replica was lost (at most `MAX_LOST`), as
`pipelines/cluster/serve_client.py` does. To whom it goes decides its router.
"""

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.planning.simulation.deciders import Place, Router
from pipelines.planning.simulation.engines.clock import ANSWERS, ARRIVES, Clock, quantized
from pipelines.planning.simulation.fleet import Stage, Ways
from pipelines.planning.simulation.outcome import Answered, Outcome
from pipelines.planning.simulation.replica import Replica
from pipelines.planning.simulation.workload import Request, Task
from pipelines.routing.candidate import Wanted
from stages.contract.item import tenant_hint
from stages.contract.news import NO_HINTS, Hints, StageNews
from stages.contract.work import NO_WORK, Work

MAX_LOST = 2
FIRST_PAUSE_S = quantized(0.1)


@dataclass(slots=True, eq=False)
class _Pending:
    """One call, until it is answered."""

    task: Task
    request: Request
    told: Answered
    wanted: Wanted
    num_lost: int = 0


class Caller:
    """`replicas`: by name, for all callers."""

    def __init__(
        self,
        clock: Clock,
        who: int,
        router: Router,
        stages: Mapping[str, Stage],
        replicas: Mapping[str, Replica],
        ways: Ways,
        source: random.Random,
    ) -> None:
        self.router = router
        self._clock, self._who, self._stages, self._replicas, self._ways = clock, who, stages, replicas, ways
        self._source = source
        self._waiting: dict[str, deque[_Pending]] = {stage: deque() for stage in stages}

    def call(self, task: Task, request: Request, told: Answered) -> None:
        left_s = request.at_s + request.deadline_s - self._clock.now
        self._try(_Pending(task, request, told, self.wanted(task, request.priority, left_s, request.tenant)))

    def wanted(self, task: Task, priority: int, left_s: float, tenant: str) -> Wanted:
        chunk = self._stages[task.stage].chunk
        work = task.expected or task.work(chunk)
        return Wanted(work, _hints(task, work, chunk), task.name, priority, left_s, tenant_hint(tenant))

    def waiting(self, stage: str) -> tuple[int, Work]:
        """Calls that no replica has yet, and their work."""
        line = self._waiting[stage]
        return len(line), sum((pending.wanted.work or NO_WORK for pending in line), NO_WORK)

    def _try(self, pending: _Pending) -> None:
        now = self._clock.now
        if now >= pending.request.at_s + pending.request.deadline_s:
            pending.told(Outcome.LATE, math.inf, "")
            return
        place = self.router.choose(pending.task.stage, pending.wanted, now)
        if place is not None and not place.is_full:
            self._send(pending, place)
        else:
            self._waiting[pending.task.stage].append(pending)
            self._poll_later(pending.task.stage, self._ways.back_off_s)

    def _poll_later(self, stage: str, back_off_s: float) -> None:
        self._clock.at(self._clock.now + quantized(back_off_s), ANSWERS, self._who, self._poll, stage, back_off_s)

    def _poll(self, stage: str, back_off_s: float) -> None:
        """Whoever has waited longest gets what is found."""
        line, now = self._waiting[stage], self._clock.now
        while line and now >= line[0].request.at_s + line[0].request.deadline_s:
            line.popleft().told(Outcome.LATE, math.inf, "")
        if not line:
            return
        place = self.router.choose(stage, line[0].wanted, now)
        if place is not None and not place.is_full:
            self._send(line.popleft(), place)
        else:
            self._poll_later(stage, min(2 * back_off_s, self._ways.max_back_off_s))

    def _send(self, pending: _Pending, place: Place) -> None:
        now, replica = self._clock.now, self._replicas[place.replica]
        place.ongoing += 1
        token = self.router.sent(pending.task.stage, place, pending.wanted.work, now)

        def answered(outcome: Outcome, first_at: float) -> None:
            place.ongoing -= 1
            news = () if replica.is_dead else replica.all_news()
            way_s = self._ways.notice_s if replica.is_dead else self._ways.hop.draw(self._source)
            when = self._clock.now + quantized(way_s)
            self._clock.at(when, ANSWERS, self._who, self._answered, pending, place, token, outcome, first_at, news)

        arrives = now + self._ways.hop.draw(self._source)
        self._clock.at(arrives, ARRIVES, replica.who, replica.receive, pending.task, pending.request, answered)

    def _answered(
        self, pending: _Pending, place: Place, token: object, outcome: Outcome, first_at: float, news: Sequence[StageNews]
    ) -> None:
        self.router.ended(token)
        for one in news:
            self.router.heard(place.pool, one, self._clock.now)
        if outcome is Outcome.LOST:
            pending.num_lost += 1
            if pending.num_lost < MAX_LOST:
                pause_s = FIRST_PAUSE_S * 2 ** (pending.num_lost - 1)
                self._clock.at(self._clock.now + pause_s, ANSWERS, self._who, self._try, pending)
                return
        pending.told(outcome, first_at, place.pool)


def _hints(task: Task, work: Work, chunk: int) -> Hints:
    if task.pages:
        each = Work(task.paged / len(task.pages), task.paged / len(task.pages) / chunk)
        return Hints(task.pages, each)
    parts = tuple(need.name for need in task.needs if need.name is not None)
    if task.name is not None:
        return Hints((task.name,), work)
    return Hints(parts=parts) if parts else NO_HINTS
