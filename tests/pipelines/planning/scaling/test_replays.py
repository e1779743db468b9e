"""Whole courses of load through the scaling policy: how soon it rises, how calm it stays, whom it gives what, and the budget."""

import math
import random
from itertools import pairwise

import pytest

from pipelines.planning.scaling.pool_state import Budget, Scaling
from tests.pipelines.planning.scaling.replay import Replay, pool, replay

PERIOD_S = Scaling().period_s


def num_present(course: Replay) -> int:
    """The most replicas that had a device at any time."""
    return max(sum(present.values()) for _, present in course.present)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("rate", "items_per_s", "rows", "replicas"), [(30, 10, 4, 4), (3, 1, 4, 4), (100, 10, 16, 14), (0.3, 0.1, 8, 4)]
)
def test_a_constant_noisy_load_changes_nothing(rate: float, items_per_s: float, rows: int, replicas: int, seed: int) -> None:
    course = replay(
        [pool("a", "m.s", items_per_s, rows=rows)], {"m.s": lambda now: rate}, 900, initial={"a": replicas}, seed=seed
    )
    assert course.changes() == 0


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_constant_load_is_nothing_changes_once_it_has_settled(seed: int) -> None:
    """Half an hour, of stages of every size: with few long items, what is chance is most of what is seen."""
    draw = random.Random(seed)
    rows, replicas = draw.choice([1, 1, 2, 8, 64]), draw.randint(2, 12)
    rate = 10 ** draw.uniform(-0.7, 1.2)
    items_per_s = rate / replicas / draw.uniform(0.6, 0.8)
    course = replay(
        [pool("a", "m.s", items_per_s, rows=rows)], {"m.s": lambda now: rate}, 2700, initial={"a": replicas}, seed=seed
    )
    assert course.changes(900) == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_little_more_than_the_replicas_do_is_found_out_by_what_waits_however_few_items_come(seed: int) -> None:
    """Ten seconds each: by their number alone a fifth more would tell nothing for half an hour."""
    course = replay(
        [pool("a", "m.s", 0.1, rows=1)], {"m.s": lambda now: 0.48 if now > 600 else 0.25}, 1000, initial={"a": 4}, seed=seed
    )
    assert course.at(600)["a"] == 4
    assert course.at(1000)["a"] >= 5
    assert max(waited for _, waited in course.waits["m.s"]) < 150


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("items_per_s", "rows"), [(4, 2), (20, 4), (1, 1)])
def test_callers_who_ask_only_when_they_have_their_answers_get_replicas_too(items_per_s: float, rows: int, seed: int) -> None:
    """They never ask for more than is done, however long each of them waits."""
    course = replay(
        [pool("a", "m.s", items_per_s, rows=rows, max_replicas=6)], {}, 1500, callers={"m.s": (24 * rows, 0.0)}, seed=seed
    )
    assert course.at(1499)["a"] == 6
    counts = [given["a"] for _, given in course.targets]
    assert counts == sorted(counts)


@pytest.mark.parametrize("seed", range(4))
def test_callers_for_whom_there_is_room_in_the_running_batches_get_no_more(seed: int) -> None:
    course = replay([pool("a", "m.s", 4, rows=4)], {}, 1500, callers={"m.s": (7, 0.0)}, initial={"a": 2}, seed=seed)
    assert course.changes() == 0


@pytest.mark.parametrize("seed", range(4))
def test_of_two_that_never_have_enough_each_has_half_and_keeps_it(seed: int) -> None:
    pools = [pool("a", "m.s", 4, rows=2), pool("b", "n.s", 4, rows=2, min_replicas=0)]
    course = replay(
        pools,
        {},
        900,
        budget=lambda now: Budget({"cpu": 4.0}),
        callers={"m.s": (100, 0.0), "n.s": (100, 300.0)},
        seed=seed,
    )
    assert course.at(299) == {"a": 4, "b": 0}
    assert course.at(400) == {"a": 2, "b": 2}
    assert course.changes(400) == 0


@pytest.mark.parametrize("at", [300.5, 301.0, 301.6])
def test_a_burst_has_its_replicas_two_control_periods_and_a_start_up_later(at: float) -> None:
    one = pool("a", "m.s", 5, start_up_s=10.0)
    course = replay([one], {"m.s": lambda now: 60 if now > at else 10}, 340, initial={"a": 3})
    ready = at + 2 * PERIOD_S + one.state.start_up_s
    assert course.at(at - 0.5)["a"] == 3
    assert 5 * course.at(ready + PERIOD_S, "running")["a"] >= 60
    assert course.at(at + 2 * PERIOD_S)["a"] <= 2 * 60 / 5 / 0.75


def test_after_a_burst_they_go_in_few_steps_and_no_sooner_than_configured() -> None:
    course = replay(
        [pool("a", "m.s", 5, down_after_s=60.0)], {"m.s": lambda now: 60 if 100 < now < 200 else 10}, 400, initial={"a": 3}
    )
    most = course.at(200)["a"]
    assert course.at(255)["a"] >= 60 / 5
    assert course.at(399)["a"] in (3, 4)
    assert most > 12
    assert course.changes(200) <= 12


def test_one_clump_of_items_is_drained_and_taken_for_no_rate() -> None:
    """Forty at once, of 10 s each in batches of 8: a rate of 20 a second would want 30 replicas."""
    course = replay([pool("a", "m.s", 0.8, rows=8)], {"m.s": lambda now: 40 if 100 <= now < 101 else 0.1}, 300)
    assert 2 <= max(given["a"] for _, given in course.targets) <= 5


def test_a_ramp_is_followed_with_no_step_back() -> None:
    course = replay([pool("a", "m.s", 10)], {"m.s": lambda now: 10 + now / 5}, 600, initial={"a": 2})
    counts = [given["a"] for _, given in course.targets]
    assert counts == sorted(counts)
    assert 10 * counts[-1] >= 130
    assert max(waited for _, waited in course.waits["m.s"]) < 20


def test_day_and_night_share_a_budget() -> None:
    """Chats by day, paintings by night, on as many devices as either needs alone."""

    def day(now: float) -> float:
        return 50 - 45 * math.cos(now / 1200 * 2 * math.pi)

    def night(now: float) -> float:
        return 5 + 4.5 * math.cos(now / 1200 * 2 * math.pi)

    course = replay(
        [pool("chat", "chat.llm", 10), pool("paint", "paint.denoiser", 1, rows=8)],
        {"chat.llm": day, "paint.denoiser": night},
        2400,
        initial={"chat": 1, "paint": 12},
        budget=lambda now: Budget({"cpu": 20.0}),
    )
    assert num_present(course) <= 20
    assert course.at(600)["chat"] >= 10
    assert course.at(600)["paint"] <= 3
    assert course.at(1200)["paint"] >= 10
    assert course.at(1200)["chat"] <= 3


def test_the_stage_that_comes_next_rises_with_the_one_before_it() -> None:
    encoder, llm = pool("encoder", "m.encoder", 5), pool("llm", "m.llm", 2, after=["m.encoder"], start_up_s=30.0)
    course = replay(
        [encoder, llm],
        {"m.encoder": lambda now: 25 if now > 200 else 5},
        260,
        initial={"encoder": 2, "llm": 4},
        next_stage={"m.encoder": "m.llm"},
    )
    rises = {
        name: next(at for at, given in course.targets if given[name] > {"encoder": 2, "llm": 4}[name])
        for name in ("encoder", "llm")
    }
    assert rises["llm"] == rises["encoder"]
    assert 2 * course.at(rises["llm"])["llm"] >= 25


def test_a_stage_is_left_alone_while_the_one_before_it_is_at_its_most() -> None:
    """What the encoder can't encode never comes to the LLM."""
    encoder, llm = pool("encoder", "m.encoder", 5, max_replicas=2), pool("llm", "m.llm", 2, after=["m.encoder"])
    course = replay(
        [encoder, llm],
        {"m.encoder": lambda now: 40 if now > 100 else 5},
        300,
        initial={"encoder": 2, "llm": 4},
        next_stage={"m.encoder": "m.llm"},
    )
    assert course.at(299)["encoder"] == 2
    assert course.at(299)["llm"] <= 8  # 10 a second, at the target utilisation


def test_the_pool_that_is_cheapest_for_its_work_comes_first_and_goes_last() -> None:
    budget = Budget({"L4": 8.0, "H100": 2.0})
    course = replay(
        [
            pool("small", "m.s", 2, device="L4", price_per_hour=1.0),
            pool("large", "m.s", 10, device="H100", min_replicas=0, price_per_hour=8.0),
        ],
        {"m.s": lambda now: 25 if 200 < now < 400 else 6},
        700,
        initial={"small": 4},
        budget=lambda now: budget,
    )
    assert course.at(190) == {"small": 4, "large": 0}
    assert course.at(300) == {"small": 8, "large": 2}
    assert course.at(699)["large"] == 0
    assert course.at(699)["small"] >= 4


def test_zero_replicas_wake_at_the_next_decision_and_sleep_again_after_their_time() -> None:
    asleep = pool("a", "m.s", 5, min_replicas=0, to_zero_after_s=60.0)
    course = replay([asleep], {"m.s": lambda now: 3 if 100 < now < 200 else 0}, 400, initial={"a": 0})
    assert course.at(99)["a"] == 0
    assert course.at(104)["a"] >= 1
    assert course.at(255)["a"] >= 1
    assert course.at(266)["a"] == 0
    assert course.changes() == 2


def test_a_pool_whose_replicas_do_not_come_up_is_stood_in_for_by_another() -> None:
    broken, whole = (pool(name, "m.s", 5, device=name, price_per_hour=price) for name, price in (("A", 1.0), ("B", 2.0)))
    course = replay(
        [broken, whole],
        {"m.s": lambda now: 15},
        400,
        initial={"A": 5, "B": 1},
        broken=lambda now, name: name == "A" and now > 100,
    )
    assert 5 * course.at(150)["B"] >= 15
    assert course.at(399)["A"] == 1  # which goes on trying
    assert course.num_waiting[-1][1]["m.s"] < 10


@pytest.mark.parametrize("least", [1, 4])
def test_a_budget_that_shrinks_is_kept_at_once_and_filled_again_when_it_grows(least: int) -> None:
    pools = [pool("a", "m.s", 5, device="L4", min_replicas=least), pool("b", "n.s", 5, device="L4", min_replicas=least)]
    course = replay(
        pools,
        {"m.s": lambda now: 30, "n.s": lambda now: 15},
        500,
        initial={"a": 9, "b": 5},
        budget=lambda now: Budget({"L4": 20.0 if now < 200 or now > 300 else 7.0}),
    )
    assert all(sum(given.values()) <= 7 for at, given in course.targets if 200 <= at <= 300)
    assert 5 * course.at(340)["a"] >= 30
    assert num_present(course) <= 20


def test_who_needs_little_gets_all_of_it_where_another_wants_everything() -> None:
    pools = [pool("a", "m.s", 5, device="L4"), pool("b", "n.s", 5, device="L4")]
    course = replay(
        pools,
        {"m.s": lambda now: 150 if now > 100 else 30, "n.s": lambda now: 15},
        400,
        initial={"a": 9, "b": 5},
        budget=lambda now: Budget({"L4": 20.0}),
    )
    assert num_present(course) <= 20
    assert course.at(399) == {"a": 16, "b": 4}
    assert course.changes(120) == 0
    assert max(waited for at, waited in course.waits["n.s"]) < 10


def test_what_one_keeps_for_bursts_goes_to_who_lacks_it_now() -> None:
    """With a replica less it is busy for four fifths of the time; the other has more to do than it can."""
    course = replay(
        [pool("a", "m.s", 10, device="L4"), pool("b", "n.s", 10, device="L4")],
        {"m.s": lambda now: 24, "n.s": lambda now: 26 if now > 300 else 15},
        600,
        initial={"a": 4, "b": 2},
        budget=lambda now: Budget({"L4": 6.0}),
    )
    assert course.at(300) == {"a": 4, "b": 2}
    assert course.at(400) == {"a": 3, "b": 3}
    assert course.changes(420) == 0
    assert num_present(course) <= 6


@pytest.mark.parametrize(("weight", "shares"), [(1.0, {"a": 10, "b": 10}), (3.0, {"a": 5, "b": 15})])
def test_who_wants_everything_gets_a_part_by_weight_and_nobody_flaps(weight: float, shares: dict[str, int]) -> None:
    pools = [pool("a", "m.s", 5, device="L4"), pool("b", "n.s", 5, device="L4", weight=weight)]
    course = replay(
        pools,
        {"m.s": lambda now: 150, "n.s": lambda now: 150 if now > 100 else 10},
        300,
        initial={"a": 16, "b": 4},
        budget=lambda now: Budget({"L4": 20.0}),
    )
    given = course.at(299)
    assert all(abs(given[name] - share) <= 1 for name, share in shares.items())
    assert num_present(course) <= 20
    assert course.changes(150) == 0


def test_replicas_that_still_end_their_requests_keep_their_devices() -> None:
    """Room is only what is really free: with slow leavers nobody comes before they have gone."""
    pools = [pool("a", "m.s", 5, device="L4"), pool("b", "n.s", 5, device="L4")]
    course = replay(
        pools,
        {"m.s": lambda now: 150, "n.s": lambda now: 150 if now > 100 else 10},
        300,
        initial={"a": 16, "b": 4},
        budget=lambda now: Budget({"L4": 20.0}),
        drains_s=40.0,
    )
    assert num_present(course) <= 20
    assert course.at(130)["b"] <= 5
    assert course.at(299)["b"] >= 9


def test_a_price_bounds_all_pools_together() -> None:
    pools = [pool("a", "m.s", 5, price_per_hour=2.0), pool("b", "n.s", 5, price_per_hour=3.0)]
    course = replay(
        pools, {"m.s": lambda now: 100, "n.s": lambda now: 100}, 200, budget=lambda now: Budget(price_per_hour=31.0)
    )
    assert max(2 * given["a"] + 3 * given["b"] for _, given in course.present) <= 31
    assert 2 * course.at(199)["a"] + 3 * course.at(199)["b"] >= 29


def test_while_nobody_knows_the_speed_items_in_hand_count_and_numbers_at_most_double() -> None:
    unknown = pool("a", "m.s", 5, knows=False, items_per_replica=4.0, up_after_s=5.0)
    course = replay([unknown], {"m.s": lambda now: 40 if 100 < now < 200 else 8}, 400, initial={"a": 2})
    counts = [given["a"] for _, given in course.targets]
    assert all(after <= 2 * max(1, before) for before, after in pairwise(counts))
    assert 5 * course.at(160)["a"] >= 40
    assert course.at(399)["a"] <= 4
