"""Daily totals: what is counted of a request, whose day it is, and how long days are kept."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.context import RequestContext, TokenUsage
from pipelines.ingress.tenants.meter import told_s
from pipelines.ingress.tenants.usage import (
    KEEP_DAYS,
    NOTHING,
    Spent,
    UsageTotals,
    day_of,
    days_before,
    spent_by,
    together,
)
from stages.contract.item import StageReceipt

COUNTS = st.integers(0, 10**12)
SPENT = st.builds(
    Spent, COUNTS, COUNTS, COUNTS, COUNTS, st.dictionaries(st.sampled_from(["a.llm", "a.vision", "b"]), st.integers(0, 10**6))
)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@given(SPENT, SPENT, SPENT)
def test_totals_are_the_same_in_whatever_order_they_are_summed_up(one: Spent, two: Spent, three: Spent) -> None:
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    assert one + NOTHING == one
    assert (one + two).device_seconds == one.device_seconds + two.device_seconds


@given(SPENT)
def test_what_is_written_down_is_read_again(spent: Spent) -> None:
    assert Spent.read(spent.document()) == spent


def test_a_request_is_charged_its_receipts_by_stage_and_its_tokens() -> None:
    context = RequestContext(usage=TokenUsage(7, 3))
    context.add(
        StageReceipt("m.vision", device_s=0.5), StageReceipt("m.llm", device_s=1.0), StageReceipt("m.llm", device_s=2.0)
    )
    spent = spent_by(context)
    assert spent == Spent(1, 0, 7, 3, {"m.vision": 0.5, "m.llm": 3.0})
    assert spent_by(RequestContext(), requests=0) == NOTHING


@pytest.mark.parametrize(
    ("now", "day"),
    [
        ("2026-02-28T23:59:59.999", "2026-02-28"),
        ("2026-03-01T00:00:00", "2026-03-01"),
        ("2028-02-29T12:00:00", "2028-02-29"),
    ],
)
def test_days_are_of_utc(now: str, day: str) -> None:
    assert day_of(at(now)) == day


def test_days_end_with_today_the_latest_first() -> None:
    assert days_before(at("2026-03-01T10:00:00"), 3) == ["2026-03-01", "2026-02-28", "2026-02-27"]
    assert len(set(days_before(at("2026-03-01T10:00:00"), KEEP_DAYS))) == KEEP_DAYS


def test_a_process_keeps_no_more_days_than_are_told() -> None:
    totals, days = UsageTotals(), list(reversed(days_before(at("2026-03-01T10:00:00"), KEEP_DAYS + 10)))
    for day in days:
        totals.add(day, "ada", Spent(1))
        totals.add(day, "ada", Spent(1))
    assert sorted(totals.of_days) == days[10:]
    assert totals.of(days[-1]) == {"ada": Spent(2)}
    assert totals.of(days[0]) == {}


def test_tenants_of_several_processes_are_summed_up_apart() -> None:
    parts = [{"ada": Spent(1), "bob": Spent(5)}, {"ada": Spent(2)}]
    assert together(parts) == {"ada": Spent(3), "bob": Spent(5)}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "0ms"), (0.0001, "1ms"), (0.82, "820ms"), (1.0, "1s"), (12.1, "13s"), (360, "6m0s"), (61, "1m1s")],
)
def test_times_are_told_as_openai_tells_them(seconds: float, told: str) -> None:
    assert told_s(seconds) == told
