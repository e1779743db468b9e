"""What a replica has counted, between its tellings and whoever looks at them."""

import random
from itertools import pairwise

import pytest

from pipelines.planning.scaling.account import BEHIND_S, Account, Counted
from pipelines.planning.scaling.history import History
from stages.contract.work import Work


def counted(arrived: float, left: float | None = None) -> Counted:
    return Counted(Work(10.0, 10.0) * arrived, arrived, arrived if left is None else left)


class Replica:
    """Tells its totals about once a second where they are new, by a clock of its own; is looked at when somebody likes."""

    OTHER_CLOCK = 5_000.0

    def __init__(self, period_s: float, rng: random.Random, delay_s: float = 0.0) -> None:
        self._period_s, self._rng, self._delay_s = period_s, rng, delay_s
        self._account: Account | None = None
        self._tells_at = rng.random()
        self._told = (counted(0), self.OTHER_CLOCK)
        self.looks: list[tuple[float, Counted]] = []

    def run(self, arrived_by: list[float], until: float) -> None:
        """`arrived_by`: when items arrived."""
        now = 0.0
        while now < until:
            now += self._period_s * self._rng.uniform(0.98, 1.05)
            self._tell_until(now - self._delay_s, arrived_by)
            total, at = self._told
            if self._account is None:
                self._account = Account(counted(0), at, now, self._period_s)
            self._account.tell(total, at, now)
            seconds = now - self.looks[-1][0] if self.looks else self._period_s
            self.looks.append((now, self._account.came(now, seconds)))

    def _tell_until(self, now: float, arrived_by: list[float]) -> None:
        while self._tells_at <= now:
            total = counted(sum(at <= self._tells_at for at in arrived_by))
            if total != self._told[0]:
                self._told = (total, self._tells_at + self.OTHER_CLOCK)
            self._tells_at += self._rng.uniform(1.0, 1.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_second", [0.3, 0.7, 16])
@pytest.mark.parametrize("period_s", [0.5, 1.0, 2.0, 5.0, 10.0])
def test_what_comes_evenly_is_no_clumps_however_often_it_is_told_and_looked_at(
    period_s: float, per_second: float, seed: int
) -> None:
    """Half a second a look and a second a telling once made 16 items a second look sixteen times as clumped as they were."""
    until = 80 * period_s
    replica = Replica(period_s, random.Random(seed), delay_s=0.05)
    replica.run([at / per_second for at in range(int(per_second * until))], until)
    history = History.begun(0.0, period_s)
    for (before, _), (now, came) in pairwise(replica.looks):
        seconds = now - before
        history = history.noted(came.arrived / seconds, came.work * (1 / seconds), came.left / seconds, 0, now, 1e6)
    assert history.dispersion < 1.5
    late = [came.arrived / (now - before) for (before, _), (now, came) in pairwise(replica.looks) if now > until / 2]
    assert sum(late) / len(late) == pytest.approx(per_second, rel=0.05)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("period_s", [0.5, 2.0])
def test_all_that_came_is_counted_once_though_nothing_came_for_a_while(period_s: float, seed: int) -> None:
    rng = random.Random(seed)
    bursts = [10.0, 10.3, 40.0, 41.0, 41.2, 75.0]
    arrived = sorted(at + rng.random() / 10 for at in bursts for _ in range(7))
    replica = Replica(period_s, rng)
    replica.run(arrived, 90.0)
    assert sum(came.arrived for _, came in replica.looks) == pytest.approx(len(arrived))
    assert sum(came.left for _, came in replica.looks) == pytest.approx(len(arrived))
    assert sum(came.work.amount for _, came in replica.looks) == pytest.approx(10.0 * len(arrived))
    soon = [came.arrived for now, came in replica.looks if 40.0 <= now <= 42.5 + BEHIND_S + 2 * period_s]
    assert sum(soon) == pytest.approx(21)  # not over the half minute in which nothing came


def test_a_clock_that_stood_still_is_followed() -> None:
    """A machine that was suspended: what it tells is from ever earlier moments than whoever looks would think."""
    account, came = Account(counted(0), 0.0, 0.0, 1.0), 0.0
    for second in range(1, 60):
        asleep_s = 30.0 if second > 30 else 0.0
        account.tell(counted(4 * second), float(second), second + asleep_s)
        came = account.came(second + asleep_s, 1.0).arrived
    assert came == pytest.approx(4.0)


def test_who_began_anew_at_the_look_has_come_in_the_time_since_the_last() -> None:
    account = Account(counted(0), None, 10.0, 2.0)
    account.tell(counted(8, left=3), None, 10.0)
    assert account.came(10.0, 2.0) == counted(8, left=3)


def test_what_left_never_grows_less() -> None:
    account = Account(counted(5, left=5), None, 10.0, 2.0)
    account.tell(counted(7, left=4), None, 10.0)
    assert account.came(10.0, 2.0).left == 0.0
