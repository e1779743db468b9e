import asyncio

import pytest

from benchmarks.loads.load import closed_loop, open_loop


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    everyone = asyncio.Event()
    sent: list[int] = []

    async def send(index: int) -> int:
        sent.append(index)
        if len(sent) == 3:
            everyone.set()
        await everyone.wait()
        return index * 10

    load = await open_loop(send, [0.0, 0.001, 0.002])
    assert [outcome.value for outcome in load.outcomes] == [0, 10, 20]
    assert [outcome.due_s for outcome in load.outcomes] == [0.0, 0.001, 0.002]
    assert all(outcome.latency_s >= 0 for outcome in load.outcomes)
    assert load.wall_s >= 0.002


async def test_a_closed_loop_keeps_so_many_at_once() -> None:
    running, most = 0, 0

    async def send(index: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return index

    load = await closed_loop(send, 10, concurrency=3)
    assert most == 3
    assert [outcome.index for outcome in load.outcomes] == list(range(10))


async def test_a_failed_request_fails_the_load() -> None:
    async def send(index: int) -> None:
        raise RuntimeError("no")

    with pytest.raises(ExceptionGroup):
        await open_loop(send, [0.0])
