"""One question for everybody, and nobody waits long for somebody who doesn't answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipelines.cluster.state.last_answer import Known, LastAnswer
from stages.contract.errors import Unavailable


class Oracle:
    """Answers 1, 2, 3, ...: while `open`, and to what was asked before it opened, too."""

    def __init__(self) -> None:
        self.asked, self.now, self.open = 0, 0.0, asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        answer = self.asked
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return answer

    def clock(self) -> float:
        return self.now

    def last_answer(self, patience_s: float = 60.0) -> LastAnswer[int]:
        return LastAnswer(self.ask, whom="the oracle", fresh_s=1.0, patience_s=patience_s, now=self.clock)


async def test_it_is_asked_once_as_long_as_the_answer_is_fresh() -> None:
    oracle = Oracle()
    last = oracle.last_answer()
    assert await last.get() == Known(1, 0.0)
    oracle.now = 0.9
    assert await last.get() == Known(1, 0.9)
    oracle.now = 1.0
    assert await last.get() == Known(2, 0.0)


async def test_everybody_waits_for_the_same_question() -> None:
    oracle = Oracle()
    last = oracle.last_answer()
    oracle.open.clear()
    waiting = [asyncio.ensure_future(last.get()) for _ in range(8)]
    await asyncio.sleep(0)
    oracle.now = 5.0
    late = asyncio.ensure_future(last.get())
    await asyncio.sleep(0)
    oracle.open.set()
    assert await asyncio.gather(*waiting, late) == [Known(1, 0.0)] * 9
    assert oracle.asked == 1


async def test_while_it_is_silent_what_it_said_last_is_told_at_once_with_its_age() -> None:
    oracle = Oracle()
    last = oracle.last_answer(patience_s=0.01)
    await last.get()
    oracle.open.clear()
    oracle.now = 2.0
    assert await last.get() == Known(1, 2.0)  # whoever asks first finds out
    oracle.now = 30.0
    assert await nobody_waits(last.get) == Known(1, 30.0)
    assert oracle.asked == 2
    oracle.open.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await last.get() == Known(3, 0.0)  # it answers again, so it is asked again, and waited for


async def test_who_never_answered_is_a_clear_refusal_at_once() -> None:
    oracle = Oracle()
    oracle.open.clear()
    last = oracle.last_answer(patience_s=0.01)
    with pytest.raises(Unavailable, match="the oracle does not answer"):
        await last.get()
    oracle.now = 10.0
    with pytest.raises(Unavailable) as refused:
        await nobody_waits(last.get)
    assert refused.value.retry_after_s == 1.0
    assert oracle.asked == 1
    oracle.open.set()


async def test_an_error_is_no_answer_and_it_is_asked_again() -> None:
    oracle = Oracle()
    last = oracle.last_answer()
    await last.get()
    oracle.now, oracle.error = 1.0, OSError("gone")
    assert await last.get() == Known(1, 1.0)
    oracle.now, oracle.error = 2.0, None
    assert await last.get() == Known(1, 2.0)  # nobody waits for one who failed
    await asyncio.sleep(0)
    assert await last.get() == Known(3, 0.0)


async def test_who_stops_waiting_does_not_take_the_answer_from_the_others() -> None:
    oracle = Oracle()
    oracle.open.clear()
    last = oracle.last_answer()
    first, second = asyncio.ensure_future(last.get()), asyncio.ensure_future(last.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    oracle.open.set()
    assert await second == Known(1, 0.0)


async def nobody_waits(get: Callable[[], Awaitable[Known[int]]]) -> Known[int]:
    """Its answer; it may take a few turns of the loop, and no time."""
    task = asyncio.ensure_future(get())
    for _ in range(3):
        await asyncio.sleep(0)
    assert task.done()
    return await task
