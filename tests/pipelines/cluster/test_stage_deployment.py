"""How a replica finds the stages of other deployments, whose pools come and go while it runs."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.cluster import stage_deployment
from pipelines.cluster.stage_deployment import Elsewhere
from pipelines.settings.schema.orchestration import RoutingConfig
from pipelines.settings.serve.applications import Address, Addresses
from stages.contract.item import Item

STAGE = "m.vision_encoder"


class Client:
    """Answers with the pools that it was made for, once the test lets it."""

    made: list["Client"]

    def __init__(self, stages: Addresses, routing: RoutingConfig = RoutingConfig()) -> None:
        self.pools = [at.deployment for at in stages.get(STAGE, ())]
        self.may_answer = asyncio.Event()
        self.made.append(self)

    async def call(self, stage: str, item: Item[Any]) -> Any:
        await self.may_answer.wait()
        return SimpleNamespace(value=self.pools)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Client]:
    """The clients that are made."""
    Client.made = []
    monkeypatch.setattr(stage_deployment, "client_of", Client)
    return Client.made


def at(*pools: str) -> Addresses:
    return {STAGE: tuple(Address(deployment=pool, application=f"app-{pool}") for pool in pools)}


async def test_calls_under_way_end_where_they_were_made_and_new_ones_go_to_the_new_pools(made: list[Client]) -> None:
    elsewhere = Elsewhere()
    elsewhere.find(at("a"))
    first = asyncio.create_task(elsewhere.call(STAGE, Item("r", None)))
    await asyncio.sleep(0)
    elsewhere.find(at("a", "b"))
    for client in made:
        client.may_answer.set()
    later, earlier = await elsewhere.call(STAGE, Item("r", None)), await first
    assert (later.value, earlier.value) == (["a", "b"], ["a"])


def test_the_same_pools_again_are_no_reason_for_a_new_client(made: list[Client]) -> None:
    """What it knows of replicas would be lost."""
    elsewhere = Elsewhere()
    for _ in range(2):
        elsewhere.find(at("a"))
    assert [client.pools for client in made] == [[], ["a"]]


def test_a_deployment_has_one_router_in_a_process_however_often_settings_change() -> None:
    where = Address(deployment="d", application="an-app")
    one, again = (stage_deployment.client_of({STAGE: (where,)}) for _ in range(2))
    assert one is not again
    assert one._pools["d"]._handle is again._pools["d"]._handle is stage_deployment.handle_of(where)
    assert stage_deployment.handle_of(Address(deployment="d", application="other")) is not stage_deployment.handle_of(where)
