"""What quotas let in, by a clock of the test's: in any minute and in the long run, in one process and in several."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingress.tenants.quotas import (
    CONCURRENT,
    DEVICE_SECONDS,
    MINUTE_S,
    REQUESTS,
    Left,
    Quotas,
    Refusal,
    Told,
)
from pipelines.settings.schema.auth import QuotaConfig

ADA = "ada"
SOON_S = 1e-3
"""Within which a wait that is told is exact, as it is over HTTP."""
LIMITS = st.integers(1, 50)
PAUSES = st.lists(st.sampled_from([0.0, 0.01, 0.5, 1.0, 2.7, 13.0, 60.0, 200.0]), min_size=1, max_size=80)


def quotas(**limits: float) -> Quotas:
    return Quotas({ADA: QuotaConfig.model_validate(limits)})


def refusal(of: Quotas, now: float, **how: bool) -> Refusal:
    found = of.begin(ADA, now, **how)
    assert found is not None
    return found


@settings(max_examples=150, deadline=None)
@given(LIMITS, PAUSES, st.floats(0.0, 300.0))
def test_in_any_stretch_of_time_no_more_are_let_in_than_a_minutes_worth_and_what_drains_meanwhile(
    limit: int, pauses: list[float], stretch_s: float
) -> None:
    one, now = quotas(requests_per_minute=limit), 1000.0
    let_in: list[float] = []
    for pause in pauses:
        now += pause
        for _ in range(limit // 3 + 1):
            if one.begin(ADA, now) is None:
                let_in.append(now)
    for start in let_in:
        inside = sum(start <= at <= start + stretch_s for at in let_in)
        assert inside <= limit + limit * stretch_s / MINUTE_S + 1e-6


@settings(max_examples=150, deadline=None)
@given(LIMITS, PAUSES)
def test_who_waits_as_long_as_he_is_told_is_let_in_and_who_comes_sooner_is_not(limit: int, pauses: list[float]) -> None:
    one, now = quotas(requests_per_minute=limit), 0.0
    for pause in pauses:
        now += pause
        while (found := one.begin(ADA, now)) is None:
            pass
        assert (found.quota, found.limit) == (REQUESTS, limit)
        assert 0 < found.wait_s <= MINUTE_S / limit + 1e-9
        assert one.begin(ADA, now + found.wait_s - min(SOON_S, found.wait_s / 2)) is not None
        now += found.wait_s + 1e-9
        assert one.begin(ADA, now) is None


@settings(max_examples=50, deadline=None)
@given(LIMITS, st.integers(1, 400))
def test_who_asks_evenly_and_not_too_often_is_never_refused(limit: int, times: int) -> None:
    one = quotas(requests_per_minute=limit)
    assert [one.begin(ADA, turn * MINUTE_S / limit) for turn in range(times)] == [None] * times


def test_what_is_refused_costs_nothing() -> None:
    one = quotas(requests_per_minute=1)
    assert one.begin(ADA, 0.0) is None
    waits = [refusal(one, 30.0).wait_s for _ in range(100)]
    assert waits == [30.0] * 100


def test_what_is_left_is_told_with_the_time_until_all_is_there_again() -> None:
    one = quotas(requests_per_minute=6)
    assert one.left(ADA, 0.0) == Left(6, 6, 0.0)
    for _ in range(4):
        one.begin(ADA, 0.0)
    assert one.left(ADA, 0.0) == Left(6, 2, 40.0)
    assert one.left(ADA, 10.0) == Left(6, 3, 30.0)
    assert one.left(ADA, 45.0) == Left(6, 6, 0.0)
    assert quotas(concurrent_requests=1).left(ADA, 0.0) is None


def test_who_has_overdrawn_devices_time_waits_until_that_has_drained() -> None:
    one = quotas(device_seconds_per_minute=30)
    assert one.begin(ADA, 0.0) is None
    one.end(ADA, 10.0, device_s=90.0)
    found = refusal(one, 10.0)
    assert (found.quota, found.limit, found.used, found.wait_s) == (DEVICE_SECONDS, 30.0, 90.0, 120.0)
    assert refusal(one, 129.0).wait_s == pytest.approx(1.0)
    assert one.begin(ADA, 130.0) is None


@settings(max_examples=150, deadline=None)
@given(st.floats(0.5, 100.0), st.lists(st.floats(0.0, 500.0), min_size=1, max_size=60))
def test_in_the_long_run_devices_time_is_the_quota_and_the_last_requests_excess(limit: float, takes: list[float]) -> None:
    """Of a tenant that always asks again as soon as it may, one request at a time."""
    one, now, taken = quotas(device_seconds_per_minute=limit), 0.0, 0.0
    for device_s in takes:
        while (found := one.begin(ADA, now)) is not None:
            assert found.wait_s > 0
            now += found.wait_s + 1e-9
        assert taken <= limit + limit * now / MINUTE_S + 1e-3  # by all before this one
        one.end(ADA, now, device_s=device_s)
        taken += device_s


def test_no_more_run_at_a_time_than_may_and_one_that_ends_makes_room() -> None:
    one = quotas(concurrent_requests=2)
    assert [one.begin(ADA, 0.0), one.begin(ADA, 0.0)] == [None, None]
    found = refusal(one, 0.0)
    assert (found.quota, found.limit, found.used) == (CONCURRENT, 2, 2)
    one.end(ADA, 5.0, device_s=0.0, took_s=5.0)
    assert one.begin(ADA, 5.0) is None
    assert refusal(one, 5.0).wait_s > 0


def test_who_finds_no_place_is_told_to_come_back_when_one_is_likely_free() -> None:
    quick, slow = quotas(concurrent_requests=1), quotas(concurrent_requests=1)
    for of, took_s in ((quick, 0.2), (slow, 40.0)):
        for _ in range(50):
            assert of.begin(ADA, 0.0) is None
            of.end(ADA, 0.0, device_s=0.0, took_s=took_s)
        of.begin(ADA, 0.0)
    assert refusal(quick, 0.0).wait_s == pytest.approx(0.2, rel=0.01)
    assert refusal(slow, 0.0).wait_s == pytest.approx(40.0, rel=0.01)


def test_of_several_quotas_the_one_that_is_longest_to_wait_for_is_told() -> None:
    one = quotas(requests_per_minute=1, device_seconds_per_minute=1, concurrent_requests=1)
    one.begin(ADA, 0.0)
    assert refusal(one, 0.0).quota == REQUESTS
    one.end(ADA, 0.0, device_s=100.0)
    assert refusal(one, 0.0).quota == DEVICE_SECONDS


def test_work_that_nobody_waits_for_is_held_up_by_devices_time_alone() -> None:
    one = quotas(requests_per_minute=1, device_seconds_per_minute=10, concurrent_requests=1)
    assert one.begin(ADA, 0.0) is None
    assert [one.begin(ADA, 0.0, is_waited_for=False) for _ in range(5)] == [None] * 5
    one.end(ADA, 0.0, device_s=25.0, is_waited_for=False)
    assert refusal(one, 0.0, is_waited_for=False).quota == DEVICE_SECONDS
    assert {found.running for found in one.told(0.0).values()} == {1}


def test_a_tenant_without_quotas_is_let_in_and_not_remembered() -> None:
    one = quotas(requests_per_minute=1)
    assert [one.begin("bob", 0.0) for _ in range(100)] == [None] * 100
    one.end("bob", 0.0, device_s=1e9)
    assert one.begin("bob", 0.0) is None
    assert (one.told(0.0), one.left("bob", 0.0)) == ({}, None)


def test_tenants_do_not_use_up_each_others_quotas() -> None:
    both = Quotas({tenant: QuotaConfig(requests_per_minute=1) for tenant in ("ada", "bob")})
    assert [both.begin(tenant, 0.0) is None for tenant in ("ada", "ada", "bob", "bob")] == [True, False, True, False]


def test_limits_that_change_hold_from_now_on_for_what_was_charged_before() -> None:
    one = quotas(requests_per_minute=2)
    one.begin(ADA, 0.0)
    one.begin(ADA, 0.0)
    one.limits = {ADA: QuotaConfig(requests_per_minute=4)}
    assert [one.begin(ADA, 0.0) is None for _ in range(3)] == [True, True, False]
    one.limits = {}
    assert one.begin(ADA, 0.0) is None


def test_a_request_that_began_before_there_were_quotas_takes_no_place_by_ending() -> None:
    one = Quotas()
    assert one.begin(ADA, 0.0) is None
    one.limits = {ADA: QuotaConfig(concurrent_requests=1)}
    one.end(ADA, 1.0, device_s=1.0, took_s=1.0)
    assert [one.begin(ADA, 1.0) is None for _ in range(2)] == [True, False]


def test_a_clock_that_goes_back_drains_nothing_and_blocks_nobody() -> None:
    one = quotas(requests_per_minute=1)
    one.begin(ADA, 1000.0)
    assert refusal(one, 900.0).wait_s == 60.0
    assert one.begin(ADA, 960.0) is None


class Fleet:
    """HTTP replicas that hear of each other when the test says so."""

    def __init__(self, num: int, **limits: float) -> None:
        self.limits = limits
        self.all = [quotas(**limits) for _ in range(num)]

    def exchange(self, now: float) -> None:
        told = {str(index): one.told(now) for index, one in enumerate(self.all)}
        for index, one in enumerate(self.all):
            one.hear({process: tenants for process, tenants in told.items() if process != str(index)}, now)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 120), st.data())
def test_several_replicas_let_in_at_most_n_times_what_was_left_and_in_the_long_run_the_quota(
    num: int, limit: int, seconds: int, data: st.DataObject
) -> None:
    """However the requests come to them, and with an exchange a second."""
    fleet, let_in = Fleet(num, requests_per_minute=limit), 0
    fleet.exchange(0.0)
    for second in range(seconds):
        greedy = data.draw(st.sets(st.integers(0, num - 1)))
        for index in greedy:
            while fleet.all[index].begin(ADA, second + 0.5) is None:
                let_in += 1
        fleet.exchange(second + 1.0)
        assert let_in <= num * limit + limit * (second + 1) / MINUTE_S


def test_what_one_replica_let_in_the_others_refuse_once_they_have_heard() -> None:
    fleet = Fleet(3, requests_per_minute=10, concurrent_requests=4)
    fleet.exchange(0.0)
    for _ in range(4):
        assert fleet.all[0].begin(ADA, 0.0) is None
    assert fleet.all[1].begin(ADA, 0.0) is None  # it hasn't heard
    fleet.exchange(0.0)
    assert [refusal(one, 0.0).used for one in fleet.all] == [5, 5, 5]
    for _ in range(4):
        fleet.all[0].end(ADA, 0.0, device_s=0.0)
    fleet.exchange(0.0)
    assert [one.left(ADA, 0.0) for one in fleet.all] == [Left(10, 5, 30.0)] * 3
    fleet.exchange(0.0)  # hearing the same again charges nothing
    assert fleet.all[2].left(ADA, 0.0) == Left(10, 5, 30.0)


def test_device_time_is_shared_too() -> None:
    fleet = Fleet(2, device_seconds_per_minute=60)
    fleet.exchange(0.0)
    fleet.all[0].begin(ADA, 0.0)
    fleet.all[0].end(ADA, 0.0, device_s=100.0)
    fleet.exchange(0.0)
    assert [refusal(one, 0.0).wait_s for one in fleet.all] == [pytest.approx(40.0)] * 2


def test_a_tenant_that_asks_evenly_everywhere_gets_its_quota_of_all_together() -> None:
    fleet, refused = Fleet(3, requests_per_minute=60), 0
    for second in range(600):
        fleet.exchange(float(second))
        refused += fleet.all[second % 3].begin(ADA, float(second)) is not None
    assert refused == 0
    before = sum(one.told(600.0)[ADA].requests for one in fleet.all)
    for second in range(600, 1200):  # twice as often
        fleet.exchange(float(second))
        for index in (0, 2):
            fleet.all[index].begin(ADA, second + index / 4)
    after = sum(one.told(1200.0)[ADA].requests for one in fleet.all)
    assert 600 <= after - before <= 600 + 60 + 10


def test_a_replica_that_begins_takes_the_others_word_for_what_went_before() -> None:
    old, new = quotas(requests_per_minute=5), quotas(requests_per_minute=5)
    old.hear({}, 0.0)
    for _ in range(5):
        assert old.begin(ADA, 0.0) is None
    new.hear({"old": old.told(0.0)}, 0.0)
    assert refusal(new, 0.0).quota == REQUESTS


def test_what_ran_in_a_replica_that_is_gone_runs_no_more() -> None:
    one = quotas(concurrent_requests=2)
    one.hear({"gone": {ADA: Told(running=2)}}, 0.0)
    assert refusal(one, 0.0).used == 2
    one.hear({}, 1.0)
    assert one.begin(ADA, 1.0) is None


def test_what_was_charged_while_nobody_heard_the_others_is_forgiven() -> None:
    """After an hour without Redis a tenant is not made to wait for an hour."""
    one, other = quotas(requests_per_minute=1), Told(requests=10.0, running=1)
    one.hear({"other": {ADA: other}}, 0.0)
    one.lose_others()
    assert one.begin(ADA, 3600.0) is None
    one.hear({"other": {ADA: replace(other, requests=70.0, requests_level=1.0)}}, 3600.0)
    assert refusal(one, 3600.0).wait_s == pytest.approx(60.0)
    one.hear({"other": {ADA: replace(other, requests=71.0)}}, 3601.0)
    assert refusal(one, 3601.0).wait_s == pytest.approx(119.0)
