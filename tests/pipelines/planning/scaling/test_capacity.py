"""What one more replica of a pool does, takes and costs."""

import pytest

from pipelines.planning.scaling.capacity import PRICE, batch_rows, item_rates, offers
from pipelines.planning.scaling.pool_state import Budget, PoolState, StageLoad
from stages.contract.cost import Speed, StepTimes
from stages.contract.work import NO_WORK, Work

ITEM = Work(amount=8.0, steps=4.0)


def speed(step_s: float, rows: int = 4, amount: float = 1000.0) -> Speed:
    return Speed(StepTimes(((1.0, step_s),)), rows, amount)


def pool(name: str, *stages: StageLoad, **more: object) -> PoolState:
    return PoolState(name, stages, **more)  # type: ignore[arg-type]


def steady(rows: int = 4, step_s: float = 0.5) -> Speed:
    """Whose steps take as long whatever is in them."""
    return Speed(StepTimes(((1.0, step_s), (1000.0, step_s))), rows, 1000.0)


def test_a_replica_does_as_many_items_as_its_full_steps_hold_less_what_it_fails() -> None:
    rates = item_rates([pool("p", StageLoad("m", steady()), failing=0.25)], {"m": ITEM})
    assert rates == {"m": {"p": pytest.approx(4 / (4 * 0.5) * 0.75)}}


def test_a_pool_of_unknown_speed_is_taken_for_the_mean_of_the_others() -> None:
    pools = [pool("fast", StageLoad("m", steady(4))), pool("slow", StageLoad("m", steady(2))), pool("new", StageLoad("m"))]
    rates = item_rates(pools, {"m": ITEM})["m"]
    assert rates["new"] == pytest.approx((rates["fast"] + rates["slow"]) / 2)


@pytest.mark.parametrize("item", [ITEM, NO_WORK])
def test_where_no_speed_or_no_item_is_known_there_is_no_rate(item: Work) -> None:
    known = Work(item.amount, item.steps)
    loads = [StageLoad("m")] if item is ITEM else [StageLoad("m", steady())]
    assert item_rates([pool("p", *loads)], {"m": known}) == {}


@pytest.mark.parametrize(
    ("speed_of_it", "item", "rows"),
    [
        (steady(4), ITEM, 4.0),
        (speed(0.5, rows=100, amount=20.0), ITEM, 10.0),
        (speed(0.5, rows=100, amount=1.0), ITEM, 1.0),
        (None, ITEM, 1.0),
        (steady(4), NO_WORK, 1.0),
    ],
    ids=["bounded by rows", "bounded by amount", "more than fits", "of unknown speed", "of unknown size"],
)
def test_a_replica_works_on_as_many_items_as_a_step_holds(speed_of_it: Speed | None, item: Work, rows: float) -> None:
    assert batch_rows(speed_of_it, item) == rows


def test_stages_of_one_process_share_its_device_by_what_each_is_to_do() -> None:
    both = pool("both", StageLoad("m", steady(4)), StageLoad("n", steady(4)))
    rates = item_rates([both], {"m": ITEM, "n": ITEM})
    alone = rates["m"]["both"]
    adds = offers([both], Budget(), rates, {"m": 3.0, "n": 1.0})["both"].adds
    assert adds == {"m": pytest.approx(0.75 * alone), "n": pytest.approx(0.25 * alone)}
    assert offers([both], Budget(), rates, {})["both"].adds == {"m": alone / 2, "n": alone / 2}


def test_a_pool_whose_speed_nobody_knows_adds_items_in_hand() -> None:
    unknown = pool("p", StageLoad("m"), items_per_replica=8.0, failing=0.5)
    assert offers([unknown], Budget(), {}, {"m": 1.0})["p"].adds == {"m": 4.0}


def test_what_a_replica_takes_is_what_the_budget_bounds() -> None:
    priced = pool("p", StageLoad("m"), device="L4", devices=0.5, price_per_hour=2.0)
    assert offers([priced], Budget({"H100": 1.0}), {}, {})["p"].takes == {}
    assert offers([priced], Budget({"L4": 3.0}, price_per_hour=9.0), {}, {})["p"].takes == {"L4": 0.5, PRICE: 2.0}


def test_pools_are_compared_by_price_else_by_their_part_of_the_devices_else_alike() -> None:
    def costs(budget: Budget, **prices: float | None) -> list[float]:
        pools = [
            pool("l4", StageLoad("m"), device="L4", price_per_hour=prices.get("l4")),
            pool("h100", StageLoad("m"), device="H100", price_per_hour=prices.get("h100")),
        ]
        return [each.cost for each in offers(pools, budget, {}, {}).values()]

    bounded = Budget({"L4": 8.0, "H100": 2.0})
    assert costs(bounded, l4=1.0, h100=5.0) == [1.0, 5.0]
    assert costs(bounded, l4=0.0, h100=5.0) == [1e-9, 5.0]  # what costs nothing can be divided by still
    assert costs(bounded, l4=1.0) == [1 / 8, 1 / 2]
    assert costs(Budget({"L4": 8.0}), l4=1.0) == [1.0, 1.0]
