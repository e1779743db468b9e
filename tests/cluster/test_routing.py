"""One stage in two pools of unlike speed, on real Serve: who gets how much. Replicas of the product's own class, with an encoder that only
lets time pass. What is counted is items, not seconds."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pipelines.cluster.serve_client import ServeStageClient
from stages.contract.item import Item, Reply
from stages.contract.work import Work
from tests.cluster.paced_pools import BATCH_S, STAGE, paced_pools
from tests.stages.fakes import Add

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def client() -> Iterator[ServeStageClient]:
    with paced_pools() as made:
        yield made


async def asked(client: ServeStageClient, count: int, at_once: int, name: str | None = None) -> list[Reply[Any]]:
    """So many, of which no more than `at_once` are under way."""
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> Reply[Any]:
        async with places:
            named = f"{name} {number}" if name is not None else None
            return await client.call(STAGE, Item(f"r{number}", Add(2, 20 + number), named, work=Work(1.0)))

    return await asyncio.gather(*(one(number) for number in range(count)))


def share_of_slow(replies: Sequence[Reply[Any]]) -> float:
    pools = Counter(reply.receipt.pool for reply in replies)
    assert set(pools) <= set(BATCH_S)
    return pools["slow"] / len(replies)


async def test_with_more_to_do_than_both_can_each_pool_does_its_part(client: ServeStageClient) -> None:
    """Three to one. The first items tell how fast they are."""
    await asked(client, 80, at_once=16)
    replies = await asked(client, 480, at_once=48)
    assert 0.17 < share_of_slow(replies) < 0.33
    assert [int(reply.value.total) for reply in replies] == [22 + number for number in range(480)]


async def test_with_little_to_do_the_slower_pool_is_left_alone(client: ServeStageClient) -> None:
    await asked(client, 80, at_once=16)
    assert share_of_slow(await asked(client, 40, at_once=1)) < 0.1


async def test_a_receipt_says_where_it_went_what_was_expected_and_who_was_next(client: ServeStageClient) -> None:
    (reply,) = await asked(client, 1, at_once=1)
    receipt = reply.receipt
    assert receipt.pool in BATCH_S
    assert {receipt.pool, receipt.runner_up_pool} == set(BATCH_S)
    assert receipt.runner_up is not None
    assert receipt.runner_up != receipt.replica
    assert receipt.expected_s is not None
    assert receipt.runner_up_s is not None
    assert receipt.reasons


async def test_what_both_pools_could_make_is_made_in_one_and_found_there_again(client: ServeStageClient) -> None:
    first = await asked(client, 24, at_once=24, name="a name")
    again = await asked(client, 24, at_once=24, name="a name")
    assert [reply.receipt.replica for reply in again] == [reply.receipt.replica for reply in first]
    assert {reply.receipt.cache for reply in again} == {"memory"}
    assert {reply.receipt.remembered for reply in again} == {("its result",)}
