"""Ray Serve's own batching around the same stage: `@serve.batch`, with the timer to be tried and the model run on the event loop
or in a thread."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ray import serve

from stages.contract.recipe import NO_INPUTS
from stages.contract.result import Result
from stages.contract.stage import OneShotStage

MAX_ITEMS = 16


class BatchedStage:
    """`make` loads the stage in the replica. Answers with the result and the size of its batch."""

    def __init__(self, make: Callable[[], OneShotStage[Any, Any, Any]], torch_threads: int) -> None:
        import torch

        torch.set_num_threads(torch_threads)
        self._stage = make()

    async def tune(self, timer_s: float) -> None:
        """Sets both timers."""
        self._on_the_loop.set_batch_wait_timeout_s(timer_s)
        self._in_a_thread.set_batch_wait_timeout_s(timer_s)

    async def ping(self) -> None: ...

    async def on_the_loop(self, payload: Any) -> tuple[Result, int]:
        """As the documentation's examples do it: the model is called in the batch's coroutine. The loop stands still meanwhile, so
        that whoever comes then is in the next batch, whatever the timer; and nothing else in the replica is answered."""
        answer: tuple[Result, int] = await self._on_the_loop(payload)
        return answer

    async def in_a_thread(self, payload: Any) -> tuple[Result, int]:
        """With care: requests are prepared apart, and the loop stays free while a batch runs."""
        item = await asyncio.to_thread(self._stage.prepare, payload, NO_INPUTS)
        answer: tuple[Result, int] = await self._in_a_thread(item)
        return answer

    @serve.batch(max_batch_size=MAX_ITEMS)  # type: ignore[untyped-decorator]  # Ray is untyped here
    async def _on_the_loop(self, payloads: list[Any]) -> list[tuple[Result, int]]:
        return self._run([self._stage.prepare(payload, NO_INPUTS) for payload in payloads])

    @serve.batch(max_batch_size=MAX_ITEMS)  # type: ignore[untyped-decorator]  # Ray is untyped here
    async def _in_a_thread(self, items: list[Any]) -> list[tuple[Result, int]]:
        return await asyncio.to_thread(self._run, items)

    def _run(self, items: Sequence[Any]) -> list[tuple[Result, int]]:
        return [(result, len(items)) for result in self._stage.run(items)]
