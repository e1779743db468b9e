"""The scaler between the metrics table and Serve's numbers, both in memory."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from pipelines.cluster.scaling.scaler import ASKED_AGAIN_AFTER_PERIODS, SILENT_AFTER_PERIODS, Scaler
from pipelines.cluster.scaling.waiting import unplaced
from pipelines.cluster.state.metrics_table import MetricsTable
from pipelines.planning.scaling.observation import Present, Told, Waiting
from pipelines.routing.table import Demand, pool_key
from pipelines.settings.serve.scaled import ScaledPool, ScalerSettings
from stages.contract.cost import Speed, StepTimes
from stages.contract.news import StageNews
from stages.contract.work import Work

SPEED = Speed(StepTimes(((1.0, 1.0), (100.0, 1.0))), 1, 100.0)  # an item a second


class Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class Table(MetricsTable):
    """As a handle of it is called."""

    @property
    def handle(self) -> Any:
        return type("Handle", (), {"told": Method(self.told)})()


class Numbers:
    """Serve's: what is set is running at once."""

    def __init__(self, **running: int) -> None:
        self.running = {("app", name): count for name, count in running.items()}
        self.set_to: list[tuple[str, int]] = []

    async def present(self) -> Mapping[tuple[str, str], Present]:
        return {address: Present(count) for address, count in self.running.items()}

    async def set(self, application: str, deployment: str, count: int) -> None:
        self.set_to.append((deployment, count))
        self.running[application, deployment] = count


def pool(name: str, **more: Any) -> ScaledPool:
    given = {"device": "L4", "devices": 1.0, "max_replicas": 10} | more
    return ScaledPool(deployment=name, application="app", stages=(f"m.{name}",), **given)


def settings(*pools: ScaledPool, devices: float = 100.0, taken: float = 0.0) -> ScalerSettings:
    scaling = {"budget": {"devices": {"L4": devices}}}
    return ScalerSettings.model_validate({"pools": pools, "scaling": scaling, "taken": {"L4": taken}})


def told(name: str, in_hand: int) -> Told:
    news = StageNews(f"m.{name}", "r", "NVIDIA L4", "float16", SPEED, Work(1.0, 1.0) * in_hand, in_hand)
    return Told(pool_key("app", name), (news,))


async def test_what_replicas_tell_becomes_serves_numbers() -> None:
    table, numbers = Table(), Numbers(a=1)
    scaler = Scaler(table.handle, numbers, lambda: 0.0)
    scaler.configure(settings(pool("a")))
    await table.report("r", [], told("a", 61))
    await scaler.decide()
    assert numbers.set_to == [("a", 3)]  # sixty, in twenty seconds
    await scaler.decide()
    assert numbers.set_to == [("a", 3)]


async def test_a_pool_without_replicas_is_woken_by_what_waits_at_callers() -> None:
    table, numbers = Table(), Numbers(a=0)
    scaler = Scaler(table.handle, numbers, lambda: 0.0)
    scaler.configure(settings(pool("a", min_replicas=0)))
    await scaler.decide()
    assert numbers.set_to == []
    demand = {(pool_key("app", "a"), "m.a"): Demand(2, num_unplaced=2), (pool_key("app", "b"), "m.b"): Demand(3)}
    assert unplaced(demand) == {(pool_key("app", "a"), "m.a"): Waiting(2)}
    await table.report_waiting("caller", unplaced(demand))
    await scaler.decide()
    assert numbers.set_to == [("a", 1)]


async def test_a_fixed_number_is_left_alone_and_takes_its_part_of_the_budget() -> None:
    table, numbers = Table(), Numbers(a=1, fixed=3)
    scaler = Scaler(table.handle, numbers, lambda: 0.0)
    fixed = pool("fixed", min_replicas=3, max_replicas=3, is_fixed=True)
    scaler.configure(settings(pool("a"), fixed, devices=6.0, taken=1.0))
    await table.report("r", [], told("a", 500))
    await scaler.decide()
    assert numbers.set_to == [("a", 2)]  # of six the surface has one, and the fixed ones three


async def test_replicas_of_the_weights_before_have_their_devices_until_they_go() -> None:
    table, numbers = Table(), Numbers(a=1)
    numbers.running["app-before", "a"] = 4
    scaler = Scaler(table.handle, numbers, lambda: 0.0)
    scaler.configure(settings(pool("a"), devices=6.0))
    await table.report("r", [], told("a", 500))
    await scaler.decide()
    assert numbers.set_to == [("a", 2)]


async def test_what_serve_does_not_have_yet_is_left_out() -> None:
    numbers = Numbers(a=1)
    scaler = Scaler(Table().handle, numbers, lambda: 0.0)
    scaler.configure(settings(pool("a", min_replicas=2), pool("new", min_replicas=2)))
    assert set(await scaler.decide()) == {pool_key("app", "a")}
    assert numbers.set_to == [("a", 2)]


async def test_where_the_table_does_not_answer_the_next_decision_is_tried_again() -> None:
    calls = 0

    async def fails() -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise asyncio.CancelledError
        raise ConnectionError("it is being replaced")

    numbers = Numbers(a=1)
    scaler = Scaler(type("Handle", (), {"told": Method(fails)})(), numbers, lambda: 0.0)
    scaler.configure(ScalerSettings.model_validate({"scaling": {"period_s": 0.001}}))
    with suppress(asyncio.CancelledError):
        await scaler.run()
    assert (calls, numbers.set_to) == (3, [])


async def test_a_pool_that_can_not_be_set_keeps_no_other_from_being_set() -> None:
    class Stubborn(Numbers):
        async def set(self, application: str, deployment: str, count: int) -> None:
            if deployment == "a":
                raise TimeoutError("Serve's controller is slow")
            await super().set(application, deployment, count)

    numbers = Stubborn(a=1, b=1)
    scaler = Scaler(Table().handle, numbers, lambda: 0.0)
    scaler.configure(settings(pool("a", min_replicas=2), pool("b", min_replicas=3)))
    await scaler.decide()
    assert numbers.set_to == [("b", 3)]


@pytest.mark.parametrize("silent", ["the table", "Serve"])
async def test_who_never_answers_is_asked_again_and_in_the_end_the_scaler_is_unwell(silent: str) -> None:
    asked, again = 0, asyncio.Event()

    async def never() -> Any:
        nonlocal asked
        asked += 1
        if asked == 3:
            again.set()
        await asyncio.Event().wait()

    class Silent(Numbers):
        async def present(self) -> Any:
            return await never()

    handle = type("Handle", (), {"told": Method(never)})() if silent == "the table" else Table().handle
    now = 100.0
    scaler = Scaler(handle, Silent(a=1), lambda: now)
    scaler.configure(ScalerSettings.model_validate({"scaling": {"period_s": 0.001}}))
    scaler.check_health()
    running = asyncio.create_task(scaler.run())
    async with asyncio.timeout(30):
        await again.wait()
    scaler.check_health()
    now += SILENT_AFTER_PERIODS * 0.001 + 0.001
    with pytest.raises(RuntimeError, match="silent"):
        scaler.check_health()
    running.cancel()


async def test_a_scaler_that_gets_answers_is_well() -> None:
    now = 100.0
    scaler = Scaler(Table().handle, Numbers(a=1), lambda: now)
    scaler.configure(settings(pool("a")))
    scaler.check_health()
    now += 1000.0
    await scaler.decide()
    scaler.check_health()


class Counting(Numbers):
    """How often it was asked."""

    num_asked = 0

    async def present(self) -> Mapping[tuple[str, str], Present]:
        self.num_asked += 1
        return await super().present()


async def test_serve_is_asked_seldom_while_nothing_happens_and_at_once_when_something_does() -> None:
    table, numbers, clock = Table(), Counting(a=1), Clock()
    scaler = Scaler(table.handle, numbers, clock)
    scaler.configure(settings(pool("a")))
    await table.report("r", [], told("a", 0))
    for _ in range(ASKED_AGAIN_AFTER_PERIODS):
        await scaler.decide()
        clock.now += scaler.period_s
    assert numbers.num_asked == 1
    await scaler.decide()
    assert numbers.num_asked == 2
    await table.report("r", [], told("a", 61))
    await scaler.decide()
    assert (numbers.num_asked, numbers.set_to) == (3, [("a", 3)])
    await scaler.decide()  # what it has set may not be so yet
    assert numbers.num_asked == 4


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now
