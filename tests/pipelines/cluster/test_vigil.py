"""A stream that says nothing ends where Ray says that its replica is dead, and nowhere else."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import ray.exceptions

from pipelines.cluster import serve_client, vigil
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.routing.route import Route
from pipelines.routing.table import Member, ReplicaTable, pool_key
from stages.contract.errors import DeadlineExceeded
from stages.contract.item import Item

DEAD = ray.exceptions.ActorDiedError()
AWAY = ray.exceptions.ActorUnavailableError("for now", b"\x01" * 16)
SILENT_S = 0.01


class Silent:
    """The first replica tells one event and then nothing, until the test lets it; whoever comes after it tells three."""

    app_name = "app"

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self.goes_on = asyncio.Event()
        self.num_calls = 0

    def options(self, **options: object) -> "Silent":
        return self

    def remote(self, stage: str, item: object, to: Route) -> "Silent":
        self.num_calls += 1
        to.went(str(self.num_calls), self._ask)
        to.was_accepted()
        return self

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        if self.num_calls > 1:
            yield [1, 2, 3]
            return
        await self.goes_on.wait()
        yield [7]

    def cancel(self) -> None:
        self.goes_on.set()


class Answers:
    """To the question whether it lives: one after the other, and the last for ever."""

    def __init__(self, *answers: object) -> None:
        self._answers, self.num_asked = answers, 0
        self.was_asked_thrice = asyncio.Event()

    async def __call__(self) -> object:
        answer = self._answers[min(self.num_asked, len(self._answers) - 1)]
        self.num_asked += 1
        if self.num_asked == 3:
            self.was_asked_thrice.set()
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        return answer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_client, "Vigil", lambda route: vigil.Vigil(route, SILENT_S))


def client(handle: Any) -> ServeStageClient:
    table = ReplicaTable(random.Random(1).random)
    table.members(pool_key("app", "d"), [Member("1", 8), Member("2", 8)], lambda replica: None, 0.0)
    return ServeStageClient({"d": handle}, {"stage": ["d"]}, table=table)


async def told(handle: Silent, in_s: float = 30.0) -> list[object]:
    stream = client(handle).stream("stage", Item("id", None, deadline=time.time() + in_s))
    return [event async for events in stream for event in events]


@pytest.mark.parametrize("first", [DEAD, 5, AWAY, OSError("nobody knows")])
async def test_dead_it_is_done_elsewhere(first: object) -> None:
    handle = Silent(Answers(first, DEAD))
    assert await asyncio.wait_for(told(handle), 20) == [1, 2, 3]
    assert handle.num_calls == 2


@pytest.mark.parametrize("answer", [5, AWAY, OSError("nobody knows")])
async def test_alive_or_out_of_reach_it_is_waited_for_and_asked_again(answer: object) -> None:
    answers = Answers(answer)
    handle = Silent(answers)
    telling = asyncio.create_task(told(handle))
    await asyncio.wait_for(answers.was_asked_thrice.wait(), 20)
    assert not telling.done()
    handle.goes_on.set()
    assert await asyncio.wait_for(telling, 20) == [7]
    assert handle.num_calls == 1


async def test_it_may_take_as_long_as_it_likes_to_answer_but_not_longer_than_the_request() -> None:
    answers = Answers(asyncio.Event())
    with pytest.raises(DeadlineExceeded):
        await told(Silent(answers), in_s=0.2)
    assert answers.num_asked == 1
