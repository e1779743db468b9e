"""What is known of the replicas that could take an item, what is asked of them, and what comes of it. Decides nothing; pure."""

from collections.abc import Callable
from dataclasses import dataclass, field

from stages.contract.cost import Ahead, Speed, StepTimes, Turns
from stages.contract.news import NO_HINTS, Hints, StageNews
from stages.contract.work import NO_WORK, Work

UNKNOWN = Speed(StepTimes(((1.0, 1.0),)), max_rows=1, max_amount=1.0)
"""Where no speed is known at all: one item after another, so that whoever has fewest is soonest."""


@dataclass(slots=True, eq=False)
class Candidate:
    """One replica of one pool. `news`: the latest (None: nobody has heard of it), which came at `came_at` and is taken to be of `heard_at`
    (monotonic seconds of whoever ranks). `sent`, `num_sent`: what this process has sent there since that news could have told of it, and
    has no answer to, the latest at `sent_at`; `sent_of`: of each tenant, by `tenant_hint`. `fills`: whether all its places are taken, as
    far as that is known (None: it has room). That takes some microseconds. `starts_in_s`: a replica that is yet to be started (named "",
    and `sent` is all that waits). `seed`: what it owns names by (`ownership.py`). `others`: the other stages of the same replica that share
    its device. `ahead`, `drain_s`: what follows from news and what was sent, and how long all of it takes; `ahead_of_urgent`: what of it is
    before an item of priority 0 (None: all); `turns`: what of it is whose (None: it is all of one tenant, or nobody tells), and `ahead_of`:
    what an item of a tenant finds, by that, its amount and whether it is urgent. Whoever changes any of that calls `changed`."""

    pool: str
    replica: str
    news: StageNews | None = None
    heard_at: float = 0.0
    sent: Work = NO_WORK
    num_sent: int = 0
    sent_at: float = 0.0
    fills: Callable[[], bool] | None = None
    starts_in_s: float = 0.0
    seed: int = 0
    others: "tuple[Candidate, ...]" = ()
    ahead: Ahead | None = None
    ahead_of_urgent: Ahead | None = None
    drain_s: float = 0.0
    came_at: float = 0.0
    sent_of: dict[int, tuple[Work, float]] = field(default_factory=dict)
    turns: Turns[int] | None = None
    ahead_of: dict[tuple[int, float, bool], Ahead] = field(default_factory=dict)

    def changed(self) -> None:
        self.ahead = None

    @property
    def is_full(self) -> bool:
        return self.fills is not None and self.fills()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be done. `work`: None where nobody knows. `name`: a hint of the result's name, to have it made once. A lower
    `priority` is more urgent; `left_s`: until its deadline; `tenant`: by `tenant_hint`."""

    work: Work | None
    hints: Hints = NO_HINTS
    name: int | None = None
    priority: int = 0
    left_s: float = float("inf")
    tenant: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """`news_half_life_s`: how fast old news loses weight against the mean of its pool. `near`: which part of the earliest finish two
    finishes may differ by and count as equal. `ahead_batches`: for how many full batches' time a name keeps to its owner, though another
    would be sooner. `batch_slack`: by how much later than the earliest finish what is not urgent (priority over 0) may end, as a part of
    that, to leave faster devices to others. `follow_slack`: by how much later it may end where its beginning is being read, as a part of
    what reading it again takes. `retry_s`: what a failure costs beside the time of a try. `max_candidates`: of more replicas than that, a
    sample is looked at."""

    news_half_life_s: float = 5.0
    near: float = 0.05
    ahead_batches: float = 1.0
    batch_slack: float = 1.0
    follow_slack: float = 0.25
    retry_s: float = 1.0
    max_candidates: int = 16


@dataclass(frozen=True, slots=True)
class Ranked:
    """`finish_s`, `runner_up_s`: seconds from now, expected. `speed`: of the best. `alone_s`: as `finish_s`, had the best nothing
    else to do; `crowded_s`: with as much beside it to its end as there is now. `remembered`: what of the item is held there, in words."""

    best: Candidate
    finish_s: float
    speed: Speed
    alone_s: float
    crowded_s: float
    runner_up: Candidate | None = None
    runner_up_s: float | None = None
    remembered: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether its times are seconds: while no speed is known at all, they only rank."""
        return self.speed is not UNKNOWN
