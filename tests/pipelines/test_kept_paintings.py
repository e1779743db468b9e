"""Paintings that were interrupted go on, and finished ones are found again: with a small real painter, over hosts that share a tier."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.context import RequestContext
from pipelines.jobs import PaintEvent, PaintImage, PaintJob, PaintProgress, Trunk
from pipelines.routing.table import Member, ReplicaTable, pool_key
from pipelines.rules.paint_rules import PaintRules
from pipelines.text_to_image import TextToImagePipeline
from pipelines.threads import Threads
from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source
from stages.contract.item import StageReceipt
from stages.contract.pages import MadePage
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.prompt_lengths import PromptLengths
from stages.diffusion.text_encoder import TextEncoder
from stages.diffusion.vae import VaeDecoder
from stages.diffusion.work import PaintingWork
from stages.host.host import StageHost
from stages.host.pages.rule import FetchRule
from tests.pipelines.cluster.fake_serve import FakeDeployment
from tests.stages.diffusion.tiny import save_stable_diffusion
from tests.stages.fakes import Gate
from tests.stages.host.hosting import once

pytestmark = pytest.mark.models

TEXT, DENOISER, DECODER = "m.text_encoder", "m.denoiser", "m.vae_decoder"
STEPS = 6
MINE, THEIRS = {"tenant": "a", "salt": "mine"}, {"tenant": "b", "salt": "theirs"}

RULES = PaintRules(
    sizes=(),
    default_size=(32, 32),
    size_multiple=8,
    max_pixels=10_000,
    default_steps=STEPS,
    max_steps=50,
    default_guidance_scale=3.0,
    default_strength=0.8,
    samplers=("euler_a", "dpmpp_2m"),
    negative_prompts=True,
    max_prompt_tokens=14,
)


class Far(MemoryTier):
    """Shared by replicas, as Redis is; outlives them."""

    name = "redis"

    def close(self) -> None: ...


class CountedBackbone:
    """Of every forward pass the number of model rows; each goes through the gate."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.gate = inner, Gate()
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def predict(self, latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        self.gate.pass_through()
        self.rows.append(len(latents))
        output: torch.Tensor = self._inner.predict(latents, *rest)
        return output


class CountedPages(deque[MadePage]):
    """What a denoiser keeps until it is written."""

    num_kept = 0

    def append(self, page: MadePage) -> None:
        self.num_kept += 1
        super().append(page)


@dataclass
class Loaded:
    checkpoint: Checkpoint
    text: TextEncoder
    decoder: VaeDecoder
    far: Far
    far_pages: Far


class Replica:
    """A process with a whole painter."""

    def __init__(self, loaded: Loaded, name: str, dtype: str = "float32") -> None:
        denoiser = Denoiser.load(loaded.checkpoint, LoadOptions(dtype=dtype))
        self.backbone = denoiser._backbone = CountedBackbone(denoiser._backbone)
        self.pages = denoiser._kept = CountedPages()
        self.host = StageHost(
            cache=TieredCache([MemoryTier(2**24), loaded.far]),
            pages=TieredCache([MemoryTier(2**24), loaded.far_pages]),
            replica=name,
        )
        self.host.add(TEXT, loaded.text)
        self.host.add(DENOISER, denoiser, dtype=dtype)
        self.host.add(DECODER, loaded.decoder)
        self.client = LocalStageClient(self.host)

    async def settled(self) -> None:
        """An engine hands pages over behind the answers, and may not have done so yet."""
        await once(lambda: self._num_remembered() == self.pages.num_kept)
        await self.host.settled()

    def _num_remembered(self) -> float:
        (told,) = (one.counters for one in self.host.metrics() if one.stage == DENOISER)
        return told["pages_exported_total"] + told["pages_dropped_total"]

    async def close(self) -> None:
        self.backbone.gate.open()
        await self.host.close()


class Scene:
    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.threads = loaded, Threads.new()
        self.first, self.second = Replica(loaded, "r1"), Replica(loaded, "r2")
        self.lengths, self.work = PromptLengths.load(loaded.checkpoint), PaintingWork.load(loaded.checkpoint)

    def pipeline(self, client: Any, *, keep: Sequence[int | float] = (), images: bool = False) -> TextToImagePipeline:
        return TextToImagePipeline(
            "m",
            client,
            RULES,
            self.lengths,
            self.work,
            threads=self.threads,
            text_fingerprint="text",
            vae_fingerprint=None,
            max_image_pixels=100,
            keep_steps=keep,
            decoder_fingerprint="decoder" if images else None,
        )

    async def settled(self) -> None:
        for replica in (self.first, self.second):
            await replica.settled()

    async def close(self) -> None:
        self.threads.close()
        await self.first.close()
        await self.second.close()


@dataclass
class Painted:
    events: list[PaintEvent]
    receipts: Sequence[StageReceipt]

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, PaintProgress)]

    @property
    def pixels(self) -> dict[int, Any]:
        """Finished ones, by their seeds."""
        return {event.seed: event.pixels for event in self.events if isinstance(event, PaintImage) and event.partial is None}

    def outcomes(self) -> dict[str, str]:
        """What the last receipt of each stage says of the cache."""
        return {receipt.stage: receipt.cache for receipt in self.receipts}


async def paint(pipeline: TextToImagePipeline, job: PaintJob, **who: str) -> Painted:
    context = RequestContext(**(who or MINE))  # type: ignore[arg-type]
    return Painted([event async for event in pipeline.paint(job, context)], context.receipts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("painter"))


@pytest.fixture
async def scene(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(
        FetchRule, "observe", lambda *seen, **more: None
    )  # fetching is tried: a busy machine's times don't decide
    checkpoint = Checkpoint(Source(folder=str(folder)), folder)
    text, decoder = TextEncoder.load(checkpoint, LoadOptions()), VaeDecoder.load(checkpoint, LoadOptions())
    scene = Scene(Loaded(checkpoint, text, decoder, Far(2**24), Far(2**24)))
    yield scene
    await scene.close()


def job(**changes: Any) -> PaintJob:
    usual: dict[str, Any] = {"prompt": "a red circle", "seed": 5, "sampler": "euler_a"}
    return PaintJob(**(usual | changes))


async def test_a_finished_image_asked_for_again_takes_no_step_and_no_prompt_is_read(scene: Scene) -> None:
    pipeline = scene.pipeline(scene.first.client, images=True)
    first = await paint(pipeline, job())
    await scene.settled()
    assert len(scene.first.backbone.rows) == STEPS
    again = await paint(pipeline, job())
    assert len(scene.first.backbone.rows) == STEPS
    assert again.steps == [STEPS]
    np.testing.assert_array_equal(again.pixels[5], first.pixels[5])
    assert again.outcomes() == {DENOISER: "memory", DECODER: "memory"}
    assert [receipt.steps for receipt in again.receipts if receipt.stage == DENOISER] == [0]


async def test_another_replica_finds_it_too(scene: Scene) -> None:
    first = await paint(scene.pipeline(scene.first.client, images=True), job())
    await scene.settled()
    again = await paint(scene.pipeline(scene.second.client, images=True), job())
    assert scene.second.backbone.rows == []
    np.testing.assert_array_equal(again.pixels[5], first.pixels[5])
    assert again.outcomes() == {DENOISER: "redis", DECODER: "redis"}


@pytest.mark.parametrize(
    "other",
    [{"seed": 6}, {"prompt": "a blue circle"}, {"negative_prompt": "dark"}, {"guidance_scale": 2.5}, {"sampler": "dpmpp_2m"}],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_differs_is_painted(scene: Scene, other: dict[str, Any]) -> None:
    pipeline = scene.pipeline(scene.first.client, keep=[2], images=True)
    first = await paint(pipeline, job())
    await scene.settled()
    again = await paint(pipeline, job(**other))
    assert again.steps == list(range(1, STEPS + 1))
    (pixels,), (others,) = first.pixels.values(), again.pixels.values()
    assert not np.array_equal(pixels, others)


async def test_another_tenant_takes_every_step(scene: Scene) -> None:
    pipeline = scene.pipeline(scene.first.client, keep=[2], images=True)
    first = await paint(pipeline, job(), **MINE)
    await scene.settled()
    theirs = await paint(pipeline, job(), **THEIRS)
    assert theirs.steps == list(range(1, STEPS + 1))
    assert len(scene.first.backbone.rows) == 2 * STEPS
    assert set(theirs.outcomes().values()) == {"miss"}
    np.testing.assert_array_equal(theirs.pixels[5], first.pixels[5])


async def test_an_image_whose_seed_nobody_chose_is_not_remembered(scene: Scene) -> None:
    painted = await paint(scene.pipeline(scene.first.client, images=True), job(seed=None))
    await scene.settled()
    assert scene.loaded.far_pages.stats().entries == 0
    assert painted.outcomes()[DECODER] == "off"
    (seed,) = painted.pixels
    again = await paint(scene.pipeline(scene.first.client, images=True), job(seed=seed))
    assert again.steps == list(range(1, STEPS + 1))
    np.testing.assert_array_equal(again.pixels[seed], painted.pixels[seed])


async def test_of_several_images_each_is_found_by_its_own_seed(scene: Scene) -> None:
    pipeline = scene.pipeline(scene.first.client, images=True)
    first = await paint(pipeline, job(n=3))
    await scene.settled()
    taken = len(scene.first.backbone.rows)
    for seed in (5, 6, 7):
        again = await paint(pipeline, job(seed=seed))
        np.testing.assert_array_equal(again.pixels[seed], first.pixels[seed])
    assert len(scene.first.backbone.rows) == taken


async def test_where_nothing_is_to_be_kept_nothing_is(scene: Scene) -> None:
    pipeline = scene.pipeline(scene.first.client)
    for _ in range(2):
        assert (await paint(pipeline, job())).steps == list(range(1, STEPS + 1))
        await scene.settled()
    assert scene.loaded.far_pages.stats().entries == 0


async def test_a_painting_that_was_called_off_goes_on_where_it_was_kept_last(scene: Scene) -> None:
    whole = await paint(scene.pipeline(scene.second.client), job())
    scene.first.backbone.gate.close()
    interrupted = asyncio.create_task(paint(scene.pipeline(scene.first.client, keep=[1, 0.5]), job()))
    scene.first.backbone.gate.let(4)
    await asyncio.to_thread(scene.first.backbone.gate.wait_for, 5)
    interrupted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await interrupted
    scene.first.backbone.gate.open()
    await once(lambda: len(scene.first.backbone.rows) == 5)  # the step that was on its way
    await scene.settled()
    for replica in (scene.first, scene.second):
        before = len(replica.backbone.rows)
        again = await paint(scene.pipeline(replica.client, keep=[1, 0.5]), job())
        assert again.steps == [4, 5, 6]
        assert len(replica.backbone.rows) == before + 3
        np.testing.assert_array_equal(again.pixels[5], whole.pixels[5])


async def test_variations_of_one_seed_begin_where_their_trunk_ends(scene: Scene) -> None:
    pipeline, trunk = scene.pipeline(scene.first.client), Trunk("a red circle", 0.5)
    boat = await paint(pipeline, job(prompt="a boat", trunk=trunk))
    await scene.settled()
    alone = await paint(pipeline, job(prompt="a lake", trunk=trunk), **THEIRS)
    assert alone.steps == list(range(1, STEPS + 1))
    for replica in (scene.first, scene.second):
        lake = await paint(scene.pipeline(replica.client), job(prompt="a lake", trunk=trunk))
        assert lake.steps == [4, 5, 6]
        assert not np.array_equal(lake.pixels[5], boat.pixels[5])
        np.testing.assert_array_equal(lake.pixels[5], alone.pixels[5])


async def test_a_painting_that_goes_on_in_a_pool_of_another_dtype_begins_anew_there(scene: Scene) -> None:
    """And what that one keeps is found by its own kind only."""
    other = Replica(scene.loaded, "r3", "bfloat16")
    hosts = iter([scene.first.host, other.host])
    painters = FakeDeployment(lambda: next(hosts))
    handles: Any = {"painters": painters.handle}
    client = ServeStageClient(handles, dict.fromkeys((TEXT, DENOISER, DECODER), ("painters",)))
    scene.first.backbone.gate.close()
    painting = asyncio.create_task(paint(scene.pipeline(client, keep=[4], images=True), job()))
    scene.first.backbone.gate.let(5)
    await asyncio.to_thread(scene.first.backbone.gate.wait_for, 6)
    await once(lambda: scene.loaded.far_pages.stats().entries == 1)
    painters.kill()
    painted = await painting
    assert len(other.backbone.rows) == STEPS
    told = [(receipt.dtype, receipt.ended_early) for receipt in painted.receipts if receipt.stage == DENOISER]
    assert told == [("unknown", True), ("bfloat16", False)]
    scene.first.backbone.gate.open()
    for replica, found in ((scene.second, False), (other, True)):
        await replica.settled()
        again = await paint(scene.pipeline(replica.client, images=True), job())
        assert again.outcomes()[DENOISER] == ("memory" if found else "miss")
        assert np.array_equal(again.pixels[5], painted.pixels[5]) == found
    await painters.close()


async def test_a_painting_whose_replica_dies_goes_on_elsewhere_and_shows_no_preview_twice(scene: Scene) -> None:
    hosts = iter([scene.first.host, scene.second.host])
    painters = FakeDeployment(lambda: next(hosts))
    handles: Any = {"painters": painters.handle}
    client = ServeStageClient(handles, dict.fromkeys((TEXT, DENOISER, DECODER), ("painters",)))
    scene.first.backbone.gate.close()
    wanted = job(seed=None, steps=8, partial_images=3)
    events: list[PaintEvent] = []

    async def run() -> None:
        async with aclosing(scene.pipeline(client, keep=[4]).paint(wanted, RequestContext(**MINE))) as painting:  # type: ignore[arg-type]
            async for event in painting:
                events.append(event)

    painting = asyncio.create_task(run())
    scene.first.backbone.gate.let(5)
    await once(lambda: PaintProgress(0, 5, 8) in events and sum(isinstance(event, PaintImage) for event in events) == 2)
    await once(lambda: scene.loaded.far_pages.stats().entries == 1)
    painters.kill()
    await painting
    steps = [event.step for event in events if isinstance(event, PaintProgress)]
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert [event.partial for event in events if isinstance(event, PaintImage)] == [0, 1, 2, None]
    assert len(scene.second.backbone.rows) == 4
    scene.first.backbone.gate.open()
    await painters.close()


async def test_a_painting_that_is_asked_for_again_is_sent_where_its_last_kept_state_is(scene: Scene) -> None:
    """Both replicas are idle and know one another's pages by the shared tier only."""
    table, hosts = ReplicaTable(random.Random(1).random), {"r1": scene.first.host, "r2": scene.second.host}
    pools = {name: FakeDeployment(lambda host=host: host) for name, host in hosts.items()}  # type: ignore[misc]
    for name in pools:
        table.members(pool_key("app", name), [Member(name, 64)], lambda replica: None, 0.0)
    handles: Any = {name: pool.handle for name, pool in pools.items()}
    stages = dict.fromkeys((TEXT, DENOISER, DECODER), tuple(pools))
    pipeline = scene.pipeline(ServeStageClient(handles, stages, table=table), keep=[2, 4])
    for seed in range(4):
        (first,) = [one for one in (await paint(pipeline, job(seed=seed))).receipts if one.stage == DENOISER]
        await scene.settled()
        for name, host in hosts.items():  # as it is published
            for news in host.news():
                table.heard(pool_key("app", name), news, time.monotonic())
        (again,) = [one for one in (await paint(pipeline, job(seed=seed))).receipts if one.stage == DENOISER]
        assert again.replica == first.replica
        assert again.remembered[0] == "4 model calls of its beginning"
    await asyncio.gather(*(pool.close() for pool in pools.values()))
