"""What became of a load that is too much."""

from typing import Any

import pytest

from benchmarks.mixed.asked import Asked
from benchmarks.mixed.requests import Kind, Request, Size
from benchmarks.soak.__main__ import Found, Plan, goals, told
from benchmarks.soak.growth import Grown, Owner
from benchmarks.soak.requests import Sent, by_minute, refusals

REQUEST = Request(Kind.EMBEDDING, 0, "/", {})


def asked(sent_at: float, ended_at: float, status: int = 200, **more: Any) -> Asked:
    error = "" if status == 200 else str(status)
    return Asked(REQUEST, sent_at, ended_at=ended_at, status=status, error=error, **more)


ANSWERED = Sent(asked(101, 102))
LATE = Sent(asked(119, 161))
REFUSED = Sent(asked(103, 103.1, 429, retry_after_s=20.0), asked(123, 124))
REFUSED_AGAIN = Sent(asked(104, 104.1, 429, retry_after_s=20.0), asked(124, 124.1, 429))
REFUSED_FOR_GOOD = Sent(asked(105, 105.1, 429))
FAILED = Sent(asked(106, 107, 500))
SENT = [ANSWERED, LATE, REFUSED, REFUSED_AGAIN, REFUSED_FOR_GOOD, FAILED]


def test_goodput_counts_answers_in_the_minute_in_which_they_come() -> None:
    first, second = by_minute(SENT, began=100.0, minutes=2)
    assert first["goodput"] == pytest.approx(2 / 60, abs=1e-3)  # the refused one that was let in later is one
    assert second["goodput"] == pytest.approx(1 / 60, abs=1e-3)
    assert [first[name] for name in ("sent", "refused", "failed")] == [6, 3, 1]


def test_half_a_minute_is_a_minute_of_its_own_length() -> None:
    *_, last = by_minute([Sent(asked(161, 170))], began=100.0, minutes=1.5)
    assert last["goodput"] == pytest.approx(1 / 30, abs=1e-3)


def test_refusals_are_told_with_what_came_of_asking_again() -> None:
    assert refusals(SENT) == {"refused": 3, "with_retry_after": 2, "asked_again": 2, "let_in": 1}


def test_one_that_was_let_in_and_failed_of_something_else_was_let_in() -> None:
    found = refusals([Sent(asked(1, 2, 429, retry_after_s=1.0), asked(3, 4, 504))])
    assert found["let_in"] == 1


def found(**more: Any) -> Found:
    grown = Grown(7, Owner.OURS, "llm", 20, 600, 0.1, 9, 0.0, 20, 0.0)
    known: dict[str, Any] = {"capacity": 0.03, "began": 100.0, "sent": SENT, "killed": ["vae"], "survivors": [grown]}
    return Found(**(known | {"left": {}, "num_claims": 0, "tasks": {"llm a": (12, 12)}} | more))


def unmet(given: Found, goodput: list[float], minutes: float = 20) -> list[str]:
    return [goal.name.split(",")[0] for goal in goals(given, goodput, minutes) if not goal.is_met]


FINE = Sent(asked(103, 103.1, 429, retry_after_s=20.0), asked(123, 124))


def test_what_is_left_in_hand_misses_its_goal() -> None:
    good = [0.03, 0.03]
    assert unmet(found(sent=[FINE]), good) == []
    assert unmet(found(sent=[FINE], left={"triptych_stage_running": 1.0}), good) == ["in hand when nobody asks"]
    assert unmet(found(sent=[FINE], num_claims=1), good) == ["claims that stand when nobody asks"]
    assert unmet(found(sent=[FINE], num_claims=None), good) == ["claims that stand when nobody asks"]
    assert unmet(found(), good) == ["let in after Retry-After"]


def test_goodput_that_falls_misses_its_goal() -> None:
    assert unmet(found(sent=[FINE]), [0.04, 0.04, 0.02, 0.02]) == ["goodput"]


def test_only_a_process_of_ours_that_grows_misses_a_goal_and_only_where_it_was_long_enough() -> None:
    ours = Grown(7, Owner.OURS, "llm", 20, 600, 2.0, 9, 0.0, 20, 0.0)
    rays = Grown(8, Owner.RAY, "raylet", 20, 600, 2.0, 9, 9.0, 20, 9.0)
    assert unmet(found(sent=[FINE], survivors=[ours, rays]), [0.03, 0.03]) == ["MiB a minute"]
    assert unmet(found(sent=[FINE], survivors=[ours]), [0.03, 0.03], minutes=3) == []
    assert unmet(found(sent=[FINE], survivors=[rays]), [0.03, 0.03]) == []


def test_the_report_tells_of_minutes_refusals_processes_and_tasks() -> None:
    plan = Plan(2.0, Size(4, 2), 10, 1.0, 1.0)
    report = told(found(left={"triptych_stage_running": 1.0}), plan)
    assert [row["side"] for row in report.rows] == ["minute", "minute", "refusals", "ours", "event loop"]
    assert report.notes == ["killed: vae", "in hand when nobody asks: triptych_stage_running 1"]
