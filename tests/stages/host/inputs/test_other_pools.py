"""A result that pools of other dtypes or weights have made: which of them will do."""

import asyncio

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from stages.checkpoints.checkpoint import Contents
from stages.contract.item import Item
from stages.contract.recipe import Recipe
from stages.host.host import StageHost
from tests.stages.fakes import Add, Adder, Countdown, CountFrom
from tests.stages.host.elsewhere import PoolsElsewhere
from tests.stages.host.hosting import collect, once
from tests.stages.host.inputs.needing import Scene, closed, inputs, outcomes, plus


async def test_a_name_that_two_stages_elsewhere_make_is_asked_of_each(scene: Scene) -> None:
    scene.there.add("b.adder", Adder(), dtype="bfloat16", contents=Contents("", "w"))
    scene.elsewhere.hold()
    both = [scene.start(Recipe("n", stage, Add(2))) for stage in ("m.adder", "b.adder")]
    await once(lambda: len(scene.elsewhere.items) == 2)
    scene.elsewhere.let_go()
    answers = [inputs(events) for events in await asyncio.gather(*both)]
    assert [[(receipt.stage, receipt.dtype, receipt.cache) for receipt in receipts] for receipts in answers] == [
        [("m.adder", "float32", "miss")],
        [("b.adder", "bfloat16", "miss")],
    ]


@pytest.mark.parametrize(("dtype", "outcome"), [("float32", "miss"), ("bfloat16", "memory")])
async def test_what_replaced_weights_made_is_not_found_any_more_and_what_other_pools_made_is(
    scene: Scene, dtype: str, outcome: str
) -> None:
    await scene.start(plus(1))
    await asyncio.gather(scene.here.settled(), scene.there.settled())
    newer = scene.elsewhere.host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
    newer.add("m.adder", Adder(), dtype=dtype, contents=Contents("", "newer"))
    assert outcomes(await scene.start(plus(2))) == ["miss"]
    assert outcomes(await scene.start(plus(1))) == [outcome]
    await newer.close()


MADE = "off"  # by a pool, which remembers nothing itself


async def pools_and_who_asks() -> tuple[PoolsElsewhere, StageHost]:
    """Two pools of unlike dtypes, and a host that has had an answer of each: n1 of the first, n2 of the second."""
    pools = PoolsElsewhere(whole=adding("float32"), half=adding("float16"))
    here = StageHost(cache=TieredCache([MemoryTier(2**20)]), elsewhere=pools)
    here.add("m.count", Countdown())
    for pool, number in (("whole", 1), ("half", 2)):
        pools.asked = pool
        assert await outcome_of(here, number) == MADE
    return pools, here


def adding(dtype: str, contents: str = "w") -> StageHost:
    host = StageHost()
    host.add("m.adder", Adder(), dtype=dtype, contents=Contents("", contents))
    return host


async def outcome_of(here: StageHost, number: int) -> str:
    (outcome,) = outcomes(await collect(here.stream("m.count", Item("r", CountFrom(1, plus=(plus(number),))))))
    await here.settled()
    return outcome


async def test_what_any_pool_of_a_stage_has_made_will_do() -> None:
    pools, here = await pools_and_who_asks()
    assert [await outcome_of(here, number) for number in (1, 2)] == ["memory", "memory"]
    assert pools.num_calls == 2
    await closed(here, *pools.hosts.values())


async def test_what_a_pool_that_is_gone_has_made_is_made_again() -> None:
    pools, here = await pools_and_who_asks()
    gone = pools.hosts.pop("whole")
    assert [await outcome_of(here, number) for number in (1, 2)] == [MADE, "memory"]
    await closed(here, gone, *pools.hosts.values())


async def test_what_a_pool_made_in_another_dtype_before_is_made_again() -> None:
    pools, here = await pools_and_who_asks()
    before, pools.hosts["half"] = pools.hosts["half"], adding("bfloat16")
    assert await outcome_of(here, 3) == MADE
    assert [await outcome_of(here, number) for number in (1, 2, 3)] == ["memory", MADE, "memory"]
    await closed(here, before, *pools.hosts.values())


async def test_of_one_dtype_pools_have_the_weights_that_one_of_them_answered_with_last() -> None:
    pools, here = await pools_and_who_asks()
    pools.hosts["more"], pools.asked = adding("float32", "newer"), "more"
    assert await outcome_of(here, 3) == MADE
    assert [await outcome_of(here, number) for number in (1, 2)] == [MADE, "memory"]
    await closed(here, *pools.hosts.values())
