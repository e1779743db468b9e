"""An image from a job to its pixels, over a host with small stages in place of the models."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.context import RequestContext
from pipelines.jobs import GivenImage, ImagePart, PaintEvent, PaintImage, PaintJob, PaintProgress, Trunk
from pipelines.rules.paint_rules import PaintRules
from pipelines.text_to_image import TextToImagePipeline
from pipelines.threads import Threads
from stages.contract.errors import DeadlineExceeded, InvalidRequest, QueueFull
from stages.contract.news import Hints, hint
from stages.contract.work import Work
from stages.diffusion.messages import Denoise, EncodePrompt
from stages.diffusion.step_state import state_names
from stages.host.host import StageHost
from tests.pipelines.cluster.fake_serve import FakeDeployment
from tests.pipelines.measured_client import MeasuredClient
from tests.pipelines.stages import BAD, FakeDenoiser, text_encoder, vae_decoder, vae_encoder
from tests.stages.host.hosting import once

TEXT, DENOISER, ENCODER, DECODER = "m.text_encoder", "m.denoiser", "m.vae_encoder", "m.vae_decoder"
LONGEST = 9

RULES = PaintRules(
    sizes=(),
    default_size=(64, 64),
    size_multiple=8,
    max_pixels=10_000,
    default_steps=4,
    max_steps=50,
    default_guidance_scale=3.0,
    default_strength=0.8,
    samplers=("euler",),
    negative_prompts=True,
    max_prompt_tokens=LONGEST,
)


class Words:
    """A position a word."""

    def positions(self, text: str) -> int:
        num_words = len(text.split())
        if num_words > LONGEST:
            raise InvalidRequest(f"prompt has {num_words} words; at most {LONGEST}", param="prompt")
        return num_words

    def work(self, text: str, min_positions: int = 0) -> Work:
        return Work(float(max(len(text.split()), min_positions)))


class Steps:
    """A unit a step."""

    def hints(self, payload: Denoise) -> Hints:
        names = state_names(payload, str(payload.sampler))
        chain = tuple(hint(name) for name in names.values())
        return Hints(chain, Work(1.0, 1.0), lengths=tuple(names), is_kept_by_name=True)

    def of(self, payload: Denoise) -> Work:
        return Work(float(payload.steps), float(payload.steps))


class Scene:
    def __init__(self) -> None:
        self.text, self.encoder, self.decoder, self.denoiser = text_encoder(), vae_encoder(), vae_decoder(), FakeDenoiser()
        self.host = StageHost(cache=TieredCache([MemoryTier(2**27)]), replica="r1")
        for name, stage in ((TEXT, self.text), (ENCODER, self.encoder), (DECODER, self.decoder)):
            self.host.add(name, stage)
        self.host.add(DENOISER, self.denoiser)
        self.client, self.threads = MeasuredClient(LocalStageClient(self.host)), Threads.new()

    def pipeline(self, client: Any = None, *, edits: bool = True, **kept: Any) -> TextToImagePipeline:
        return TextToImagePipeline(
            "m",
            client or self.client,
            RULES,
            Words(),
            Steps(),
            threads=self.threads,
            text_fingerprint="text",
            vae_fingerprint="vae" if edits else None,
            max_image_pixels=100,
            **kept,
        )

    async def paint(self, job: PaintJob, context: RequestContext | None = None) -> list[PaintEvent]:
        return [event async for event in self.pipeline().paint(job, context or RequestContext())]

    def denoised(self) -> list[Denoise]:
        return [item.payload for item in self.client.items if isinstance(item.payload, Denoise)]

    async def close(self) -> None:
        for stage in (self.text, self.encoder, self.decoder, self.denoiser):
            stage.gate.open()
        self.threads.close()
        await self.host.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


def edit(data: bytes = b"xy", **fields: Any) -> PaintJob:
    return PaintJob("a boat", init=GivenImage(ImagePart(data, 64, 64, "image"), 0.5), **fields)


def images(events: Sequence[PaintEvent]) -> list[PaintImage]:
    return [event for event in events if isinstance(event, PaintImage)]


async def test_progress_then_the_image(scene: Scene) -> None:
    events = await scene.paint(PaintJob("a boat", steps=3, seed=5))
    assert events[:3] == [PaintProgress(0, step, 3) for step in (1, 2, 3)]
    (image,) = images(events)
    assert (image.index, image.seed, image.partial) == (0, 5, None)
    assert image.pixels.shape == (2, 2, 3)


async def test_several_images_have_a_seed_each(scene: Scene) -> None:
    events = await scene.paint(PaintJob("a boat", n=3, seed=5))
    assert sorted((image.index, image.seed) for image in images(events)) == [(0, 5), (1, 6), (2, 7)]
    assert len(scene.text.made) == 2  # the prompt and the empty negative prompt, once


async def test_previews_come_while_it_is_painted_and_count_from_0(scene: Scene) -> None:
    events = await scene.paint(PaintJob("a boat", steps=8, partial_images=3))
    assert [image.partial for image in images(events)] == [0, 1, 2, None]
    assert scene.denoised()[0].preview_steps == (2, 4, 6)


@pytest.mark.parametrize(
    ("prompt", "negative", "positions"),
    [
        ("a red boat", "ugly", {"a red boat": 0, "ugly": 3}),
        ("boat", "ugly and dark", {"boat": 3, "ugly and dark": 0}),
        ("a boat", "dark ugly", {"a boat": 0, "dark ugly": 0}),
        ("a boat", None, {"a boat": 0, "": 2}),
    ],
)
async def test_both_prompts_have_as_many_positions_and_are_encoded_once(
    scene: Scene, prompt: str, negative: str | None, positions: dict[str, int]
) -> None:
    await scene.paint(PaintJob(prompt, negative_prompt=negative))
    assert {payload.text: payload.min_positions for payload in scene.text.made} == positions
    assert len(scene.text.made) == 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
async def test_a_trunks_prompt_is_as_long_as_the_others_and_ends_at_its_part_of_the_steps(
    scene: Scene, guidance: float
) -> None:
    job = PaintJob("a red boat", steps=10, guidance_scale=guidance, trunk=Trunk("boat", 0.5))
    assert len(images(await scene.paint(job))) == 1
    texts = {payload.text: payload.min_positions for payload in scene.text.made}
    assert texts == {"a red boat": 0, "boat": 3} | ({"": 3} if guidance > 1 else {})
    (payload,) = scene.denoised()
    assert payload.trunk is not None
    assert (payload.trunk.payload, payload.trunk_steps, payload.keep_steps) == (EncodePrompt("boat", 3), 5, (5,))


@pytest.mark.parametrize(("steps", "part", "shared"), [(1, 0.5, 0), (4, 0.1, 0), (4, 0.9, 4)])
async def test_a_trunk_of_no_step_or_of_all_is_refused(scene: Scene, steps: int, part: float, shared: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^trunk: part {part} of {steps} steps is {shared}") as raised:
        await scene.paint(PaintJob("a boat", steps=steps, trunk=Trunk("a lake", part)))
    assert raised.value.param == "trunk"
    assert scene.client.items == []


async def test_without_guidance_there_is_one_prompt_and_a_negative_one_is_refused(scene: Scene) -> None:
    await scene.paint(PaintJob("a boat", guidance_scale=1.0))
    assert [payload.text for payload in scene.text.made] == ["a boat"]
    with pytest.raises(InvalidRequest, match=r"^negative_prompt has no effect") as raised:
        await scene.paint(PaintJob("a boat", guidance_scale=1.0, negative_prompt="ugly"))
    assert raised.value.param == "negative_prompt"


@pytest.mark.parametrize("param", ["prompt", "negative_prompt", "trunk"])
async def test_a_prompt_that_is_too_long_is_named_before_anything_runs(scene: Scene, param: str) -> None:
    texts = dict.fromkeys(("prompt", "negative_prompt", "trunk"), "short") | {param: "word " * (LONGEST + 1)}
    job = PaintJob(texts["prompt"], negative_prompt=texts["negative_prompt"], trunk=Trunk(texts["trunk"], 0.5))
    with pytest.raises(InvalidRequest) as raised:
        await scene.paint(job)
    assert raised.value.param == param
    assert scene.client.items == []


async def test_an_edit_sends_a_recipe_of_its_image_and_no_array_comes_back_but_what_is_shown(scene: Scene) -> None:
    context = RequestContext(id="mine", tenant="t", priority=2)
    await scene.paint(edit(), context)
    (payload,) = scene.denoised()
    assert payload.init is not None
    assert (payload.init.stage, payload.init.param, payload.strength) == (ENCODER, "image", 0.5)
    assert {receipt.stage for receipt in context.receipts} == {TEXT, ENCODER, DENOISER, DECODER}
    assert set(scene.client.bytes_from) == {DENOISER, DECODER}
    assert sum(scene.client.bytes_from.values()) < 8192
    assert all((item.tenant, item.priority) == ("t", 2) for item in scene.client.items)


async def test_the_same_image_at_the_same_size_is_encoded_once(scene: Scene) -> None:
    for size in (64, 64, 32):
        await scene.paint(edit(width=size, height=size))
        await scene.host.settled()
    assert [(payload.width, payload.height) for payload in scene.encoder.made] == [(64, 64), (32, 32)]


async def test_the_receipt_tells_what_was_remembered(scene: Scene) -> None:
    first, second = RequestContext(), RequestContext()
    await scene.paint(edit(), first)
    await scene.host.settled()
    await scene.paint(edit(), second)
    made = {TEXT, ENCODER}
    assert {receipt.cache for receipt in first.receipts if receipt.stage in made} == {"miss"}
    assert [receipt.cache for receipt in second.receipts if receipt.stage in made] == ["memory"] * 3
    assert [receipt.cache for receipt in second.receipts if receipt.stage not in made] == ["off"] * 2


async def test_what_is_no_image_is_named_by_its_own_field(scene: Scene) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await scene.paint(edit(BAD))
    assert raised.value.param == "image"


def within_a_mask(mask: bytes = b"mask", size: tuple[int, int] = (64, 64), **fields: Any) -> PaintJob:
    given = GivenImage(ImagePart(b"xy", 64, 64, "image"), fields.pop("strength", None), ImagePart(mask, *size, "mask"))
    return PaintJob("a boat", init=given, **fields)


async def test_a_mask_goes_with_its_image_and_what_it_keeps_is_put_over_every_image_that_is_shown(scene: Scene) -> None:
    events = await scene.paint(within_a_mask(partial_images=1, n=2))
    painted = scene.denoised()
    assert [(payload.masked, payload.strength) for payload in painted] == [(True, 1.0)] * 2
    (encoded,) = scene.encoder.made
    assert (bytes(encoded.data), bytes(encoded.mask or b"")) == (b"xy", b"mask")
    assert len(images(events)) == len(scene.decoder.made) == 4
    for shown in scene.decoder.made:
        assert shown.original is not None
        assert (bytes(shown.original.data), bytes(shown.original.mask), shown.original.max_pixels) == (b"xy", b"mask", 100)
    await scene.paint(edit())
    assert scene.decoder.made[-1].original is None


async def test_what_is_painted_over_within_a_mask_is_all_or_what_was_asked_for(scene: Scene) -> None:
    for strength in (None, 0.5):
        await scene.paint(within_a_mask(strength=strength))
    assert [payload.strength for payload in scene.denoised()] == [1.0, 0.5]


async def test_another_mask_is_another_painting_and_other_pixels(scene: Scene) -> None:
    pipeline = scene.pipeline(decoder_fingerprint="decoder")
    for mask in (b"one", b"two", b"one"):
        _ = [event async for event in pipeline.paint(within_a_mask(mask, seed=3), RequestContext())]
        await scene.host.settled()
    names = [payload.init.name for payload in scene.denoised() if payload.init is not None]
    assert (names[0] == names[2], names[0] == names[1]) == (True, False)
    pixels = [item.name for item in scene.client.items if item.id.partition(":")[2].startswith("decode:")]
    assert (pixels[0] == pixels[2], pixels[0] == pixels[1], None in pixels) == (True, False, False)


async def test_a_mask_of_another_size_is_refused_before_anything_runs(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="mask has 32 x 64 pixels and the image 64 x 64") as raised:
        await scene.paint(within_a_mask(size=(32, 64)))
    assert raised.value.param == "mask"
    assert scene.client.items == []


async def test_when_it_will_be_done_is_told_without_anything_begun(scene: Scene) -> None:
    scene.client.forecast_s = 4.5
    assert await scene.pipeline().forecast(PaintJob("a boat", n=2), RequestContext()) == 4.5
    assert [visit.stage for visit in scene.client.visits] == [TEXT, DENOISER, DECODER]
    assert scene.client.items == []
    with pytest.raises(InvalidRequest, match="at most 9"):
        await scene.pipeline().forecast(PaintJob("a " * 20), RequestContext())
    assert await scene.pipeline(LocalStageClient(scene.host)).forecast(PaintJob("a boat"), RequestContext()) is None


async def test_a_model_that_edits_nothing_refuses_an_image_before_anything_runs(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="edits no images") as raised:
        await anext(scene.pipeline(edits=False).paint(edit(), RequestContext()))
    assert raised.value.param == "image"
    assert scene.client.items == []


@pytest.mark.parametrize("stuck_at", ["text", "encoder", "denoiser", "decoder"])
async def test_time_that_is_up_ends_it_wherever_it_is(scene: Scene, stuck_at: str) -> None:
    getattr(scene, stuck_at).gate.close()
    with pytest.raises(DeadlineExceeded):
        await scene.paint(edit(), RequestContext(deadline=time.time() + 0.3))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("stuck_at", ["text", "encoder", "denoiser", "decoder"])
async def test_a_client_that_goes_away_stops_everything_wherever_it_is(scene: Scene, stuck_at: str, n: int) -> None:
    gate = getattr(scene, stuck_at).gate
    gate.close()
    painting = asyncio.create_task(scene.paint(edit(n=n)))
    await asyncio.to_thread(gate.wait_for, 1)
    painting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await painting
    gate.open()
    await once(lambda: not scene.denoiser.running)
    await once(lambda: all(load.queued == load.running == 0 for load in scene.host.load().values()))
    assert sum(metrics.counters["cancelled_total"] for metrics in scene.host.metrics()) >= 1


async def test_closing_while_a_preview_is_decoded_withdraws_that_too(scene: Scene) -> None:
    scene.decoder.gate.close()
    async with aclosing(scene.pipeline().paint(PaintJob("a boat", steps=40, partial_images=1), RequestContext())) as events:
        async for event in events:
            if event == PaintProgress(0, 40, 40):
                break
        await asyncio.to_thread(scene.decoder.gate.wait_for, 1)
    await once(lambda: scene.host.metrics()[2].counters["cancelled_total"] >= 1)
    scene.decoder.gate.open()


async def test_a_painting_that_starts_anew_shows_no_preview_twice(scene: Scene) -> None:
    denoisers: list[FakeDenoiser] = []

    def make() -> StageHost:
        denoisers.append(FakeDenoiser())
        denoisers[-1].gate.close()
        host = StageHost(elsewhere=LocalStageClient(scene.host))
        host.add(DENOISER, denoisers[-1])
        return host

    denoiser, rest = FakeDeployment(make), FakeDeployment(lambda: scene.host)
    handles: Any = {"denoiser": denoiser.handle, "rest": rest.handle}
    pipeline = scene.pipeline(ServeStageClient(handles, {DENOISER: ["denoiser"], DECODER: ["rest"]}))
    events: list[PaintEvent] = []

    async def paint() -> None:
        async for event in pipeline.paint(PaintJob("a boat", steps=8, partial_images=3), RequestContext()):
            events.append(event)

    painting = asyncio.create_task(paint())
    denoisers[0].gate.let(5)
    await once(lambda: PaintProgress(0, 5, 8) in events)  # two previews have come
    denoiser.kill()
    denoisers[1].gate.open()
    await painting
    assert [image.partial for image in images(events)] == [0, 1, 2, None]
    assert len(scene.decoder.made) == 4
    denoisers[0].gate.open()
    await denoiser.close()


async def test_a_denoiser_that_dies_is_started_anew_elsewhere_and_nothing_else_is_done_again(scene: Scene) -> None:
    denoisers: list[FakeDenoiser] = []

    def make() -> StageHost:
        denoisers.append(FakeDenoiser())
        denoisers[-1].gate.close()
        host = StageHost(elsewhere=LocalStageClient(scene.host))
        host.add(DENOISER, denoisers[-1])
        return host

    denoiser, rest = FakeDeployment(make), FakeDeployment(lambda: scene.host)
    handles: Any = {"denoiser": denoiser.handle, "rest": rest.handle}
    pipeline = scene.pipeline(ServeStageClient(handles, {DENOISER: ["denoiser"], DECODER: ["rest"]}))

    async def paint() -> list[PaintEvent]:
        return [event async for event in pipeline.paint(edit(steps=4, seed=1), RequestContext())]

    painting = asyncio.create_task(paint())
    denoisers[0].gate.let(2)
    await asyncio.to_thread(denoisers[0].gate.wait_for, 3)
    await scene.host.settled()
    denoiser.kill()
    denoisers[1].gate.open()
    events = await painting
    assert len(images(events)) == 1
    steps = [event.step for event in events if isinstance(event, PaintProgress)]
    assert steps[-4:] == [1, 2, 3, 4]
    assert (len(scene.text.made), len(scene.encoder.made)) == (2, 1)
    denoisers[0].gate.open()
    await denoiser.close()


KEPT = [([5, 0.5], 20, 5, (5, 10)), ([5, 0.5], 4, 5, (2,)), ([0.1], 4, 5, ()), ([4, 5], 4, None, ()), ([], 4, 5, ())]


@pytest.mark.parametrize(("keep", "steps", "seed", "kept"), KEPT)
@pytest.mark.parametrize("images", [False, True])
async def test_what_is_kept_are_steps_or_parts_of_them_and_the_end_where_its_seed_was_chosen(
    scene: Scene, keep: list[int | float], steps: int, seed: int | None, kept: tuple[int, ...], images: bool
) -> None:
    pipeline = scene.pipeline(keep_steps=keep, decoder_fingerprint="decoder" if images else None)
    async for _ in pipeline.paint(PaintJob("a boat", steps=steps, seed=seed), RequestContext(salt="mine")):
        pass
    (payload,) = scene.denoised()
    assert payload.keep_steps == ((*kept, steps) if images and seed is not None else kept)
    assert payload.salt == "mine"


async def test_what_is_refused_beforehand_has_begun_nothing(scene: Scene) -> None:
    scene.client.refusal = QueueFull("too much to do", retry_after_s=3.0)
    with pytest.raises(QueueFull):
        await scene.paint(PaintJob("a boat", steps=3))
    assert not scene.client.items
    assert [visit.stage for visit in scene.client.visits] == [TEXT, DENOISER, DECODER]
    assert all(visit.work is not None and visit.work.amount > 0 for visit in scene.client.visits)


async def test_several_images_are_asked_for_as_so_much_work_in_the_same_steps(scene: Scene) -> None:
    scene.client.refusal = QueueFull("too much to do", retry_after_s=3.0)

    async def asked(n: int) -> list[Work | None]:
        scene.client.visits.clear()
        with pytest.raises(QueueFull):
            await scene.paint(PaintJob("a boat", steps=3, n=n))
        return [visit.work for visit in scene.client.visits]

    (embedding, one, pixels), found = await asked(1), await asked(4)
    assert one is not None
    assert pixels is not None
    assert found == [embedding, Work(4 * one.amount, one.steps), Work(4 * pixels.amount, pixels.steps)]
