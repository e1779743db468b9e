"""What the embedding pipeline tells each of its requests."""

import asyncio
from collections.abc import Hashable, Sequence

import numpy as np

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.context import RequestContext
from pipelines.embed import ClipEmbedPipeline
from pipelines.jobs import EmbedJob, TextPart
from stages.contract.errors import InvalidRequest
from stages.contract.result import Arrays
from stages.host.host import StageHost
from stages.vision.messages import EmbedInput
from tests.stages.fakes import Gate


class ShortReader:
    """Refuses texts of more than five characters, as an embedder does that has read them."""

    device = "cpu"

    def __init__(self) -> None:
        self.gate = Gate(closed=True)
        self.num_read = 0

    def prepare(self, payload: EmbedInput) -> str:
        self.gate.pass_through()
        self.num_read += 1
        if payload.text is None or len(payload.text) > 5:
            raise InvalidRequest("the text is too long", param="input")
        return payload.text

    def batch_key(self, item: str) -> Hashable:
        return "text"

    def cost(self, item: str) -> float:
        return 1.0

    def run(self, batch: Sequence[str]) -> Sequence[Arrays]:
        return [{"embedding": np.ones(2, np.float32), "num_tokens": np.asarray(len(text))} for text in batch]


async def test_two_requests_that_share_a_computation_are_each_told_of_their_own_field() -> None:
    reader, host = ShortReader(), StageHost(cache=TieredCache([MemoryTier(2**20)]))
    host.add("m.embedder", reader)
    pipeline = ClipEmbedPipeline("m", LocalStageClient(host), fingerprint="f", max_pixels=100)

    def ask(*texts: str) -> "asyncio.Task[object]":
        return asyncio.create_task(pipeline.embed(EmbedJob(tuple(map(TextPart, texts))), RequestContext()))

    first, second = ask("too long"), ask("short", "too long")
    await asyncio.to_thread(reader.gate.wait_for, 2)
    for _ in range(10):
        await asyncio.sleep(0)
    reader.gate.open()
    errors = await asyncio.gather(first, second, return_exceptions=True)
    await host.close()
    assert [getattr(error, "param", None) for error in errors] == ["input[0]", "input[1]"]
    assert reader.num_read == 2  # the long text once
