"""The sides of the live benchmark: who chooses the replica that a request goes to. Each asks replicas of the product's own class, on the
same three nodes, two to a node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.fleet.baselines import (
    LEAST_OUTSTANDING,
    ROUND_ROBIN,
    TWO_CHOICES,
    Chooser,
    LeastOutstanding,
    RoundRobin,
    cap_of,
)
from benchmarks.fleet.live.cluster import Nodes, application
from benchmarks.fleet.live.sleeping import Longer, Sleep
from benchmarks.fleet.mixes import STAGE, Mix, Request
from pipelines.client import StageClient
from stages.contract.item import Item, StageReceipt, StreamEnd

OURS = "Triptych"
SIDES = (OURS, TWO_CHOICES, LEAST_OUTSTANDING, ROUND_ROBIN)
Ask = Callable[[Request], Awaitable[StageReceipt]]


@dataclass(frozen=True, slots=True)
class Side:
    """Replicas that are up. `ask`: one of them; `handles`: of all deployments."""

    ask: Ask
    handles: Sequence[Any]

    async def longer(self) -> dict[str, Longer]:
        """By pool, what its replicas' steps have taken longer than its devices so far."""
        total: dict[str, Longer] = {}
        for handle in self.handles:
            for pool, longer in await handle.broadcast("longer").results_async():
                total[pool] = total.get(pool, Longer()) + longer
        return total


@contextmanager
def side(name: str, mix: Mix, nodes: Nodes) -> Iterator[Side]:
    """The replicas are up while inside."""
    from ray import serve

    try:
        yield {OURS: _ours, TWO_CHOICES: _serves_own}.get(name, _chosen)(name, mix, nodes)
    finally:
        for application in list(serve.status().applications):
            serve.delete(application)


def _ours(name: str, mix: Mix, nodes: Nodes) -> Side:
    from pipelines.cluster.serve_client import ServeStageClient
    from pipelines.cluster.stage_deployment import router_config

    options = {"max_ongoing_requests": 10_000, "request_router_config": router_config()}
    handles = _run(
        {
            pool.name: application(pool.name, mix, nodes, pool=pool, num_replicas=pool.num_replicas, **options)
            for pool in mix.pools
        }
    )
    client: StageClient = ServeStageClient(handles, {STAGE: tuple(handles)})
    return Side(lambda request: _through(client, mix, request), list(handles.values()))


def _serves_own(name: str, mix: Mix, nodes: Nodes) -> Side:
    """Serve's own router, over all replicas as one deployment."""
    num_replicas = sum(pool.num_replicas for pool in mix.pools)
    cap = cap_of(mix.max_rows)
    one = application(name, mix, nodes, pool=None, num_replicas=num_replicas, max_ongoing_requests=cap)
    (handle,) = _run({"one": one}).values()
    return Side(lambda request: _plainly(handle, mix, request), [handle])


def _chosen(name: str, mix: Mix, nodes: Nodes) -> Side:
    """Every replica is a deployment of its own, and whoever asks counts what each has in hand."""
    chooser: Chooser = {ROUND_ROBIN: RoundRobin, LEAST_OUTSTANDING: LeastOutstanding}[name]()
    handles = list(
        _run(
            {
                f"{pool.name}-{number}": application(
                    f"{pool.name}-{number}", mix, nodes, pool=pool, num_replicas=1, max_ongoing_requests=10_000
                )
                for pool in mix.pools
                for number in range(pool.num_replicas)
            }
        ).values()
    )
    ongoing = [0] * len(handles)

    async def ask(request: Request) -> StageReceipt:
        place = chooser.choose(ongoing)
        assert place is not None, "neither waits at the caller"
        ongoing[place] += 1
        try:
            return await _plainly(handles[place], mix, request)
        finally:
            ongoing[place] -= 1

    return Side(ask, handles)


def _run(applications: dict[str, Any]) -> dict[str, Any]:
    """Their handles, once all are up."""
    from ray import serve

    targets = [serve.RunTarget(one, name, route_prefix=None) for name, one in applications.items()]
    return dict(zip(applications, serve.run_many(targets), strict=True))


def _item(mix: Mix, request: Request) -> Item[Sleep]:
    return Item("r", Sleep(request.work), pace_s=float("inf"), work=request.work)


async def _through(client: StageClient, mix: Mix, request: Request) -> StageReceipt:
    if not mix.is_iterative:
        return (await client.call(STAGE, _item(mix, request))).receipt
    return _end([events async for events in client.stream(STAGE, _item(mix, request))])


async def _plainly(handle: Any, mix: Mix, request: Request) -> StageReceipt:
    if not mix.is_iterative:
        receipt: StageReceipt = (await handle.options(method_name="call").remote(STAGE, _item(mix, request))).receipt
        return receipt
    stream = handle.options(method_name="stream", stream=True).remote(STAGE, _item(mix, request))
    return _end([events async for events in stream])


def _end(batches: Sequence[Sequence[object]]) -> StageReceipt:
    end = batches[-1][-1]
    assert isinstance(end, StreamEnd)
    return end.receipt


async def settled(ask: Ask, requests: Sequence[Request], *, at_once: int) -> None:
    """Asks these first, so many at once: connections are made, and speeds learned."""
    waiting = iter(requests)

    async def client() -> None:
        for request in waiting:
            await ask(request)

    await asyncio.gather(*(client() for _ in range(at_once)))
