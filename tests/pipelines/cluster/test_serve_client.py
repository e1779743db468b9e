"""What becomes of a request whose replica ends under it, without Ray: handles that answer as the test says."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray.exceptions

from pipelines.cluster.serve_client import MAX_ATTEMPTS, ServeStageClient
from stages.contract.errors import Broken, DeadlineExceeded, StageFailed, Unavailable
from stages.contract.item import Item, Reply, StageReceipt
from stages.diffusion.messages import Pixels

REPLY = Reply(Pixels(np.zeros((1, 1, 3), np.uint8)), StageReceipt("stage"))
BROKEN = ray.exceptions.RayTaskError("call", "traceback", Broken("its device broke"))
REFUSED = ray.exceptions.RayTaskError("call", "traceback", Unavailable("about to be replaced"))
FAILED = ray.exceptions.RayTaskError("call", "traceback", StageFailed("bad luck"))
DIED = ray.exceptions.RayActorError()


class Response:
    def __init__(self, answer: object) -> None:
        self._answer = answer

    def __await__(self) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer
        yield

    async def __aiter__(self) -> AsyncIterator[Sequence[object]]:
        for event in self._answer if isinstance(self._answer, tuple) else (self._answer,):
            if isinstance(event, Exception):
                raise event
            yield [event]

    def cancel(self) -> None: ...


class Handle:
    """A deployment whose answers are known beforehand; the last one is given again and again."""

    def __init__(self, *answers: object) -> None:
        self._answers = answers
        self.num_calls = 0

    def options(self, **options: object) -> "Handle":
        return self

    def remote(self, stage: str, item: Item[Any]) -> Response:
        self.num_calls += 1
        return Response(self._answers[min(self.num_calls, len(self._answers)) - 1])


def client(handle: Any) -> ServeStageClient:
    return ServeStageClient({"d": handle}, {"stage": "d"})


async def streamed(handle: Handle, *, restartable: bool = False) -> list[object]:
    stream = client(handle).stream("stage", Item("id", None), restartable=restartable)
    return [event async for events in stream for event in events]


@pytest.mark.parametrize("ended", [BROKEN, REFUSED, DIED])
async def test_what_has_shown_nothing_is_run_again(ended: Exception) -> None:
    assert await client(Handle(ended, REPLY)).call("stage", Item("id", None)) == REPLY
    assert await streamed(Handle(ended, (1, 2))) == [1, 2]


@pytest.mark.parametrize("ended", [BROKEN, DIED])
async def test_a_stream_that_has_shown_something_ends_unless_it_can_start_anew(ended: Exception) -> None:
    with pytest.raises(Unavailable):
        await streamed(Handle((1, ended), (1, 2)))
    assert await streamed(Handle((1, ended), (1, 2)), restartable=True) == [1, 1, 2]


@pytest.mark.parametrize("ended", [BROKEN, DIED])
async def test_a_request_that_ends_replica_after_replica_is_given_up(ended: Exception) -> None:
    handle = Handle(ended)
    with pytest.raises(Unavailable):
        await client(handle).call("stage", Item("id", None))
    assert handle.num_calls == MAX_ATTEMPTS


async def test_a_refusal_costs_no_attempt() -> None:
    handle = Handle(*[REFUSED] * MAX_ATTEMPTS, REPLY)
    assert await client(handle).call("stage", Item("id", None)) == REPLY


async def test_a_request_that_is_only_refused_ends_with_its_time() -> None:
    with pytest.raises(DeadlineExceeded):
        await client(Handle(REFUSED)).call("stage", Item("id", None, deadline=time.time() + 0.2))


async def test_a_stages_failure_is_not_tried_again() -> None:
    handle = Handle(FAILED)
    with pytest.raises(StageFailed, match="bad luck"):
        await client(handle).call("stage", Item("id", None))
    assert handle.num_calls == 1
