"""Several things at once whose fate is one: what ends with what, and which error is told. And that nothing goes round that."""

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import cache
import pipelines
import stages
from stages.concurrency.together import ended, stopped, together
from stages.contract.errors import InvalidRequest, StageFailed


class Piece:
    """Work that waits until it is called off, and knows that it has ended. `on_the_way_out`: what it fails with then."""

    def __init__(self, on_the_way_out: Exception | None = None) -> None:
        self.begun, self.has_ended = asyncio.Event(), False
        self._on_the_way_out = on_the_way_out

    async def run(self) -> int:
        try:
            self.begun.set()
            await asyncio.Event().wait()
            return 0
        finally:
            await asyncio.sleep(0)  # what is called off may take its time
            self.has_ended = True
            if self._on_the_way_out is not None:
                raise self._on_the_way_out


async def give(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fail(error: Exception, after: Piece) -> int:
    await after.begun.wait()
    raise error


async def test_all_results_come_in_their_order() -> None:
    assert await together(give(value) for value in (3, 1, 2)) == [3, 1, 2]
    assert await together(()) == []


async def test_the_first_failure_is_raised_itself_once_all_others_have_ended() -> None:
    pieces = [Piece(), Piece(StageFailed("on its way out"))]
    refused = InvalidRequest("no", param="input[3]")
    refused.__cause__ = ValueError("why")
    with pytest.raises(InvalidRequest) as raised:
        await together([*(piece.run() for piece in pieces), fail(refused, pieces[1])])
    assert raised.value is refused
    assert isinstance(refused.__cause__, ValueError)
    assert refused.__context__ is None
    assert all(piece.has_ended for piece in pieces)


@pytest.mark.parametrize("error", [None, StageFailed("on its way out")])
async def test_being_cancelled_calls_off_all_of_them_whatever_they_say(error: Exception | None) -> None:
    pieces = [Piece(error), Piece()]
    task = asyncio.create_task(together(piece.run() for piece in pieces))
    for piece in pieces:
        await piece.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(piece.has_ended for piece in pieces)


async def test_time_that_is_up_calls_off_all_of_them_and_is_told_as_such() -> None:
    piece = Piece(StageFailed("on its way out"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await together([piece.run()])
    assert piece.has_ended


async def test_whoever_is_not_done_after_a_failure_can_go_on_working() -> None:
    piece = Piece()
    with pytest.raises(StageFailed):
        await together([piece.run(), fail(StageFailed("no"), piece)])
    assert await together([give(1)]) == [1]  # nothing of the cancelling is left with the caller


async def test_what_is_stopped_has_ended() -> None:
    piece = Piece(StageFailed("on its way out"))
    task = asyncio.create_task(piece.run())
    await piece.begun.wait()
    await stopped(task)
    assert piece.has_ended


async def test_what_must_be_done_is_done_whatever_becomes_of_the_rest() -> None:
    piece = Piece()
    piece.begun.set()
    failed, value = await ended([fail(StageFailed("no"), piece), give(1)])
    assert isinstance(failed, StageFailed)
    assert value == 1


# ---- nothing goes round that ----

OWN_TASKS = {
    "pipelines/app.py": "tells the metrics table; one at a time, held by the surface",
    "pipelines/cluster/state/last_answer.py": "a question for everybody who wants to know; one at a time, held by the last answer",
    "pipelines/cluster/state/surface_counts.py": "tells what the surface has counted; one at a time, cancelled by close",
    "pipelines/cluster/live_app.py": "builds the next app; one at a time, held by the succession",
    "pipelines/cluster/replica.py": "reports counters; cancelled by close",
    "pipelines/ingress/images/names.py": "a look-up for everybody who asks for the name; its thread is given up at its limit",
    "pipelines/ingress/request/disconnect.py": "work and who watches the client; stopped together",
    "pipelines/ingress/request/sse.py": "a stream, who watches the client, heartbeats; stopped together",
    "pipelines/cluster/scaling/scaler_deployment.py": "the scaler's rounds; held by the replica, ended with it",
    "pipelines/cluster/serve_client.py": "a call that no replica has yet; awaited by it, or cancelled",
    "pipelines/cluster/vigil.py": "a question for every stream that waits for its answer; and who asks, ended by its stream",
    "pipelines/cluster/scaling/waiting.py": "tells what waits; held by its owner, ended by close",
    "pipelines/streams.py": "a stream each; stopped together",
    "pipelines/ingress/kept/work.py": "does what is kept to be done; stopped by close, which leaves what runs to others",
    "pipelines/ingress/tenants/key_files.py": "looks whether files of keys have changed; one at a time, cancelled by close",
    "pipelines/ingress/tenants/shared_counts.py": "tells and hears what tenants use; one, stopped by close",
    "pipelines/ingress/tenants/shared_places.py": "tells and hears of places; one, stopped by close",
    "pipelines/ingress/routes/batches/worker.py": "a batch's lines, some at a time; called off when the batch ends",
    "stages/host/remembered/cache_stats.py": "asks the cache for its counters; one at a time, awaited by close",
    "stages/host/remembered/claiming.py": "renews claims while there are any; one at a time, ends with the last of them",
    "stages/host/pages/finding.py": "asks where pages are, for one item; waited for by it, or cancelled",
    "stages/host/pages/writing.py": "hands pages to the cache's threads; held by the writer, awaited by close",
    "stages/host/remembered/single_flight.py": "a computation that belongs to nobody's request; called off by the last who leaves",
    "stages/host/submission.py": "late inputs of one item, cancelled by its end; inputs begun ahead, awaited or stopped by it",
    "stages/concurrency/together.py": "all of them end with it",
}
"""Who begins tasks of their own, and what ends those."""


def calls() -> Iterator[tuple[str, str, int]]:
    """(file, what is called, line) of everything that goes on beside its caller."""
    for package in (cache, pipelines, stages):
        root = Path(package.__file__ or "").parent
        for path in sorted(root.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield str(path.relative_to(root.parent)), node.func.attr, node.lineno


def test_nothing_leaves_the_others_running_when_one_fails() -> None:
    own = "stages/concurrency/together.py"
    asyncio_only = {"as_completed", "run_coroutine_threadsafe"}
    strays = [(path, name, line) for path, name, line in calls() if name in asyncio_only and path != own]
    for path in {path for path, _, _ in calls()} - {own}:
        source = Path(stages.__file__ or "").parent.parent / path
        assert "asyncio.gather" not in source.read_text(), f"{path}: `together` calls off the rest where one fails"
    assert strays == []


def test_every_task_has_an_owner_that_ends_it() -> None:
    begin = {path for path, name, _ in calls() if name in ("create_task", "ensure_future")}
    assert begin == set(OWN_TASKS)
