"""A stream that says nothing ends where Ray says that its replica is dead, and nowhere else."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import ray.exceptions

from pipelines.cluster.serve_client import ServeStageClient
from pipelines.cluster.vigil import Watch
from pipelines.routing.route import Route
from pipelines.routing.table import Member, ReplicaTable, pool_key
from stages.contract.errors import DeadlineExceeded, ReplicaLost
from stages.contract.item import Item, ReplicaEnded

DEAD = ray.exceptions.ActorDiedError()
AWAY = ray.exceptions.ActorUnavailableError("for now", b"\x01" * 16)
SILENT_S = 0.01


class Silent:
    """The first replica tells nothing, until the test lets it; whoever comes after it tells three events."""

    app_name = "app"

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self.goes_on = asyncio.Event()
        self.num_calls = 0

    def options(self, **options: object) -> "Silent":
        return self

    def remote(self, stage: str, item: object, to: Route) -> "Silent":
        self.num_calls += 1
        self.route = to
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
        self.was_asked, self.was_asked_thrice = asyncio.Event(), asyncio.Event()

    def let_go(self, answer: object = None) -> None:
        """Who was asked first, and has not answered yet: so."""
        first, self._answers = self._answers[0], (answer,)
        assert isinstance(first, asyncio.Event)
        first.set()

    async def __call__(self) -> object:
        answer = self._answers[min(self.num_asked, len(self._answers) - 1)]
        self.num_asked += 1
        self.was_asked.set()
        if self.num_asked == 3:
            self.was_asked_thrice.set()
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            answer = self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(handle: Any) -> ServeStageClient:
    table = ReplicaTable(random.Random(1).random)
    table.members(pool_key("app", "d"), [Member("1", 8), Member("2", 8)], lambda replica: None, 0.0)
    return ServeStageClient({"d": handle}, {"stage": ["d"]}, table=table, watch=Watch(SILENT_S, why_s=0.3))


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


async def test_many_streams_that_wait_for_one_replica_ask_it_once() -> None:
    asked, answer = Answers(asyncio.Event()), Watch(60.0)
    words = [asyncio.create_task(answer.word("r1", asked)) for _ in range(64)]
    other = Answers(5)
    assert await answer.word("r2", other) is None
    assert (asked.num_asked, other.num_asked) == (1, 1)
    words[0].cancel()  # a stream that ended takes nobody's word along
    asked.let_go()
    assert await asyncio.gather(*words[1:]) == [None] * 63


async def test_a_stream_that_went_on_to_another_replica_does_not_end_with_the_first() -> None:
    """Serve's router takes it there, where the first could not be reached."""
    died = Answers(asyncio.Event(), DEAD)
    handle = Silent(died)
    telling = asyncio.create_task(told(handle))
    await asyncio.wait_for(died.was_asked.wait(), 20)
    handle.route.went("2", Answers(5))
    died.let_go(DEAD)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not telling.done()
    handle.goes_on.set()
    assert await asyncio.wait_for(telling, 20) == [7]


class BrokenOff:
    """Streams whose connection breaks off at once, so many times, each at a replica of its own."""

    app_name = "app"

    def __init__(self, num_times: int, *ask: object) -> None:
        self.num_calls, self._num_times, self._ask = 0, num_times, Answers(*ask)

    def options(self, **options: object) -> "BrokenOff":
        return self

    def remote(self, stage: str, item: object, to: Route) -> "BrokenOff":
        self.num_calls += 1
        to.went(str(self.num_calls), self._ask)
        to.was_accepted()
        return self

    async def __aiter__(self) -> AsyncIterator[list[int]]:
        if self.num_calls <= self._num_times:
            raise ray.exceptions.ActorUnavailableError("Actor is unavailable.", bytes([self.num_calls]) * 16)
        yield [1]

    def cancel(self) -> None:
        pass


NODE_DIED = ray.exceptions.RayActorError("c", "The actor died because its node has died. Node Id: 1234")


@pytest.mark.parametrize("ask", [(5,), (AWAY,), (asyncio.Event(),), (AWAY, NODE_DIED)])
async def test_what_the_network_or_a_lost_node_broke_off_is_not_held_against_the_request(ask: tuple[object, ...]) -> None:
    handle = BrokenOff(3, *ask)
    events = client(handle).stream("stage", Item("id", None))
    assert [event async for batch in events for event in batch if not isinstance(event, ReplicaEnded)] == [1]
    assert handle.num_calls == 4


@pytest.mark.parametrize("ask", [(DEAD,), (AWAY, DEAD)])
async def test_what_ended_its_process_is(ask: tuple[object, ...]) -> None:
    """Ray names none of these replicas, so that each counts."""
    handle = BrokenOff(3, *ask)
    with pytest.raises(ReplicaLost):
        await anext(client(handle).stream("stage", Item("id", None)))
    assert handle.num_calls == 2
