"""Whose a result is to make: how long others are waited for, and that a claim stands for as long as it is needed and no longer."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.claims import CLAIM_S, RENEW_S, BeingMade, Claim
from cache.tier import UNLABELLED
from cache.tiered import Found, TieredCache
from stages.host.remembered.cache_threads import CacheThreads
from stages.host.remembered.claiming import LONGEST_PAUSE_S, LONGEST_WAIT_S, SHORTEST_WAIT_S, Claiming, patience_s
from tests.cache.shared_tier import SharedTier, Store
from tests.stages.host.hosting import once


class Scene:
    """Two processes over one store. Pauses take no time: they move the store's clock, after `meanwhile` had its turn."""

    def __init__(self) -> None:
        self.store = Store()
        self.tiers = [SharedTier(self.store) for _ in range(2)]
        caches = [TieredCache([tier]) for tier in self.tiers]
        self.threads = [CacheThreads(cache) for cache in caches]
        self.claiming = [
            Claiming(cache, threads, pause=self.pause, now=lambda: self.store.now)
            for cache, threads in zip(caches, self.threads, strict=True)
        ]
        self.pauses: list[float] = []
        self.waits: list[float] = []
        self.meanwhile: dict[int, object] = {}

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        act = self.meanwhile.get(len(self.pauses))
        if callable(act):
            act()
        self.store.now += seconds
        await asyncio.sleep(0)

    async def look_up(self, process: int, patience: float = 30.0) -> Found | Claim | None:
        return await self.claiming[process].look_up("k", UNLABELLED, patience, self.waits.append)

    async def claim(self, process: int) -> Claim:
        answer = await self.look_up(process)
        assert isinstance(answer, Claim)
        return answer

    def stranger(self) -> None:
        """Whoever claims for ever."""
        self.store.claims["k"] = Claim("k"), float("inf")


@pytest.fixture
async def scene() -> Scene:
    return Scene()


async def test_who_is_first_waits_for_nobody(scene: Scene) -> None:
    assert isinstance(await scene.look_up(0), Claim)
    assert (scene.pauses, scene.waits) == ([], [])


async def test_who_waits_is_given_the_value_soon_after_it_is_there(scene: Scene) -> None:
    await scene.claim(0)
    scene.meanwhile[3] = lambda: scene.tiers[0].put_many({"k": {"x": np.asarray(7)}})
    found = await scene.look_up(1)
    assert isinstance(found, Found)
    assert int(found.value["x"]) == 7
    assert len(scene.pauses) == 3
    assert scene.waits == [pytest.approx(sum(scene.pauses))]


async def test_who_waits_is_given_a_claim_that_was_let_go_of(scene: Scene) -> None:
    claim = await scene.claim(0)
    scene.meanwhile[2] = lambda: scene.tiers[0].let_go(claim)
    assert isinstance(await scene.look_up(1), Claim)
    assert len(scene.pauses) == 2


async def test_a_claim_whose_owner_died_is_waited_for_until_it_runs_out(scene: Scene) -> None:
    await scene.claim(0)
    assert isinstance(await scene.look_up(1), Claim)
    assert CLAIM_S <= scene.waits[0] <= CLAIM_S + LONGEST_PAUSE_S


async def test_what_is_not_kept_is_waited_for_once_and_not_again(scene: Scene) -> None:
    claim = await scene.claim(0)
    scene.meanwhile[2] = lambda: scene.tiers[0].not_kept(claim)
    assert await scene.look_up(1) is None
    assert await scene.look_up(1) is None
    assert len(scene.pauses) == 2


@pytest.mark.parametrize("patience", [0.0, 0.1, 5.0])
async def test_who_claims_for_ever_delays_by_a_bounded_time(scene: Scene, patience: float) -> None:
    scene.stranger()
    assert await scene.look_up(1, patience) is None
    assert scene.waits == [pytest.approx(patience)]


async def test_pauses_grow_up_to_a_bound(scene: Scene) -> None:
    scene.stranger()
    await scene.look_up(1)
    assert scene.pauses[:-1] == sorted(scene.pauses[:-1])
    assert max(scene.pauses) == LONGEST_PAUSE_S
    assert len(scene.pauses) < 150


async def test_a_slow_store_is_asked_no_more_often_than_it_answers(scene: Scene) -> None:
    scene.stranger()
    scene.tiers[1].answer_s = 1.5
    assert await scene.look_up(1, 6.0) is None
    assert scene.pauses == [1.5, 1.5]


async def test_a_claim_is_renewed_for_as_long_as_it_is_held(scene: Scene) -> None:
    claim = await scene.claim(0)
    with scene.claiming[0].holding(claim):
        await once(lambda: scene.store.now > 10 * CLAIM_S)
        assert scene.tiers[1].get_or_claim("k") == BeingMade()
    assert set(scene.pauses) == {RENEW_S}
    rest = len(scene.pauses)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(scene.pauses) == rest


@pytest.mark.parametrize("end", [ValueError("it can't be made"), asyncio.CancelledError()])
async def test_what_fails_or_is_called_off_is_let_go_of(scene: Scene, end: BaseException) -> None:
    with pytest.raises(type(end)), scene.claiming[0].holding(await scene.claim(0)):
        raise end
    assert isinstance(scene.tiers[1].get_or_claim("k"), Claim)


async def test_what_is_made_and_was_not_put_is_for_everyone_to_make(scene: Scene) -> None:
    with scene.claiming[0].holding(await scene.claim(0)):
        pass
    assert scene.tiers[1].get_or_claim("k") is None


async def test_whoever_leaves_while_claiming_leaves_no_claim(scene: Scene) -> None:
    scene.tiers[0].get_gate.close()
    asking = asyncio.create_task(scene.look_up(0))
    await asyncio.to_thread(scene.tiers[0].get_gate.wait_for, 1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    scene.tiers[0].get_gate.open()
    await scene.threads[0].get_many(["until the thread is through"])
    await once(lambda: not scene.store.claims)
    assert isinstance(scene.tiers[1].get_or_claim("k"), Claim)


@given(st.floats(0, 1e4))
def test_a_slower_stage_is_waited_for_longer_within_bounds(usual_s: float) -> None:
    shorter, longer = patience_s(usual_s, None), patience_s(usual_s + 1, None)
    assert SHORTEST_WAIT_S <= shorter <= longer <= LONGEST_WAIT_S == patience_s(None, None)
    assert shorter >= min(usual_s, LONGEST_WAIT_S)


@given(st.none() | st.floats(0, 1e4), st.floats(0, 1e4))
def test_nobody_waits_for_more_than_half_of_the_time_that_is_left(usual_s: float | None, left_s: float) -> None:
    assert patience_s(usual_s, left_s) == min(left_s / 2, patience_s(usual_s, None))
