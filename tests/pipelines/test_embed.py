"""What the embedding pipeline answers, and what it tells each of its requests."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient, Visit
from pipelines.context import RequestContext
from pipelines.embed import ClipEmbedPipeline
from pipelines.jobs import Embedded, EmbedJob, ImagePart, TextPart
from pipelines.threads import Threads
from stages.contract.errors import InvalidRequest
from stages.contract.item import Reply, StageReceipt
from stages.contract.work import Work
from stages.host.host import StageHost
from stages.vision.messages import Embedding
from stages.vision.work import EmbeddingWork
from tests.pipelines.stages import BAD, embedder
from tests.stages.host.hosting import once

WORK = EmbeddingWork(text=Work(77), image=Work(49))


class Scene:
    def __init__(self) -> None:
        self.embedder = embedder()
        self.host = StageHost(cache=TieredCache([MemoryTier(2**20)]))
        self.host.add("m.embedder", self.embedder)
        self.threads = Threads.new()
        self.pipeline = ClipEmbedPipeline(
            "m", LocalStageClient(self.host), WORK, threads=self.threads, fingerprint="f", max_pixels=100
        )

    def ask(self, *parts: TextPart | ImagePart, context: RequestContext | None = None) -> "asyncio.Task[Embedded]":
        return asyncio.create_task(self.pipeline.embed(EmbedJob(parts), context or RequestContext()))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    scene.embedder.gate.open()
    scene.threads.close()
    await scene.host.close()


async def test_texts_and_images_get_a_vector_each_in_their_order(scene: Scene) -> None:
    context = RequestContext()
    embedded = await scene.ask(TextPart("four"), ImagePart(b"abc", 1, 1, "input[1]"), TextPart("fives"), context=context)
    assert [vector.shape for vector in embedded.vectors] == [(2,)] * 3
    assert embedded.num_tokens == 9
    assert [receipt.stage for receipt in context.receipts] == ["m.embedder"] * 3


async def test_what_was_embedded_is_remembered_for_its_tenant_alone(scene: Scene) -> None:
    for salt in ("one", "one", "two"):
        await scene.ask(TextPart("a word"), context=RequestContext(salt=salt))
        await scene.host.settled()
    assert len(scene.embedder.made) == 2


async def test_two_requests_that_share_a_computation_are_each_told_of_their_own_field(scene: Scene) -> None:
    scene.embedder.gate.close()
    busy = scene.ask(TextPart("busy"))
    await asyncio.to_thread(scene.embedder.gate.wait_for, 1)
    first = scene.ask(ImagePart(BAD, 1, 1, "input"))
    second = scene.ask(TextPart("a word"), ImagePart(BAD, 1, 1, "input[1]"))
    errors = await asyncio.gather(first, second, return_exceptions=True)
    assert [(type(error), getattr(error, "param", None)) for error in errors] == [
        (InvalidRequest, "input"),
        (InvalidRequest, "input[1]"),
    ]
    scene.embedder.gate.open()
    await busy
    await once(lambda: scene.host.load()["m.embedder"].queued == 0)


async def test_what_was_made_for_an_input_is_on_the_receipt_too() -> None:
    class Nested:
        def admit(self, visits: Sequence[Visit], **options: Any) -> None: ...

        def forecast(self, visits: Sequence[Visit], **options: Any) -> None: ...

        async def call(self, stage: str, item: object, **options: Any) -> Any:
            value = Embedding(np.ones(2, np.float32), np.asarray(1))
            return Reply(value, StageReceipt(stage), inputs=(StageReceipt("m.other", ago_s=1.0),))

        def stream(self, stage: str, item: object, **options: Any) -> Any: ...

    context = RequestContext(created=time.time() - 5.0)
    pipeline = ClipEmbedPipeline("m", Nested(), WORK, threads=Threads.new(), fingerprint="f", max_pixels=100)
    await pipeline.embed(EmbedJob((TextPart("a"),)), context)
    other, embedder = context.receipts
    assert (other.stage, embedder.stage) == ("m.other", "m.embedder")
    assert embedder.ended_s - other.ended_s == pytest.approx(1.0)


async def test_one_large_request_keeps_nobody_waiting_for_all_of_its_inputs(scene: Scene) -> None:
    """Another tenant's single text, and one of its own tenant: both are in the next batches, of sixteen."""
    gate = scene.embedder.gate
    gate.close()
    large = scene.ask(*[TextPart(f"text {number}") for number in range(256)], context=RequestContext(tenant="a"))
    await asyncio.to_thread(gate.wait_for, 1)
    await once(lambda: scene.host.metrics()[0].counters["items_total"] == 256)
    others = [scene.ask(TextPart(f"single {tenant}"), context=RequestContext(tenant=tenant)) for tenant in "ab"]
    await once(lambda: scene.host.metrics()[0].counters["items_total"] == 258)
    await once(lambda: scene.host.metrics()[0].counters["preparing"] == 0)
    gate.let(2)
    await asyncio.gather(*others)
    assert not large.done()
    gate.open()
    assert len((await large).vectors) == 256
