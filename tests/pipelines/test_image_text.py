"""A chat from messages to events, over a host with small stages in place of the models."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from cache.memory import MemoryTier
from cache.tiered import TieredCache
from pipelines.client import LocalStageClient
from pipelines.cluster.serve_client import ServeStageClient
from pipelines.context import RequestContext
from pipelines.image_text import ImageTextPipeline
from pipelines.jobs import ChatEvent, ChatJob, ChatStarted, ChoiceEvents, ImagePart, Message, TemplateOptions, TextPart
from pipelines.prompts.prompt import PLAIN, PlacedImage, Prompt
from pipelines.threads import Threads
from pipelines.tools.asked import Tools
from pipelines.tools.dialect import Dialect
from stages.contract.errors import DeadlineExceeded, InvalidRequest, QueueFull, StageFailed, Unavailable
from stages.contract.item import StageReceipt, StreamEnd
from stages.contract.limits import QueueLimits
from stages.contract.work import Work
from stages.host.host import StageHost
from stages.host.packed_item import LARGE_BYTES, packed
from stages.llm.messages import Constraint, ConstraintKind, GenerationEnd, Sampling, TokenDelta
from tests.pipelines.checked_on import CheckedOn
from tests.pipelines.cluster.fake_serve import FakeDeployment
from tests.pipelines.measured_client import MeasuredClient
from tests.pipelines.stages import BAD, FakeLlm, vision_encoder
from tests.stages.host.hosting import once

CONTEXT = 200
LLM, VISION = "m.llm", "m.vision_encoder"


class Letters:
    """One token a letter, and four an image. `begun`: what its template ends with; `variables`: what it looks at."""

    def __init__(self, dialect: Dialect = Dialect(), begun: str = "", variables: Collection[str] = ()) -> None:
        self.dialect, self._begun, self._variables = dialect, begun, variables
        self.asked: list[tuple[Tools | None, TemplateOptions]] = []

    def uses(self, variable: str) -> bool:
        return variable in self._variables

    def num_chars(self, messages: Sequence[Message], tools: Tools | None = None) -> int:
        return sum(len(part.text) if isinstance(part, TextPart) else 4 for message in messages for part in message.parts)

    def build(self, messages: Sequence[Message], tools: Tools | None = None, options: TemplateOptions = PLAIN) -> Prompt:
        self.asked.append((tools, options))
        token_ids: list[int] = []
        images: list[PlacedImage] = []
        for message in messages:
            for part in message.parts:
                if isinstance(part, ImagePart):
                    images.append(PlacedImage(len(token_ids), 4, part, num_patches=16))
                    token_ids += [0] * 4
                else:
                    token_ids += map(ord, part.text)
        return Prompt(tuple(token_ids), tuple(images), self._begun)


class Scene:
    def __init__(self) -> None:
        self.vision, self.llm, self.memory = vision_encoder(), FakeLlm(), MemoryTier(2**26)
        self.host = StageHost(cache=TieredCache([self.memory]), replica="r1")
        self.host.add(VISION, self.vision)
        self.host.add(LLM, self.llm, queue=QueueLimits(8))
        self.client, self.threads = MeasuredClient(LocalStageClient(self.host)), Threads.new()

    def pipeline(self, client: Any = None, *, sees: bool = True) -> ImageTextPipeline:
        return ImageTextPipeline(
            "m",
            client or self.client,
            Letters(),
            threads=self.threads,
            vision_fingerprint="weights" if sees else None,
            max_pixels=100,
            max_context_tokens=CONTEXT,
            chunk_tokens=8,
        )

    async def chat(self, job: ChatJob, context: RequestContext | None = None) -> list[ChatEvent]:
        return [event async for event in self.pipeline().chat(job, context or RequestContext())]

    async def close(self) -> None:
        self.vision.gate.open()
        self.llm.gate.open()
        self.threads.close()
        await self.host.close()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    await scene.close()


def image(data: bytes, place: int = 0) -> ImagePart:
    return ImagePart(data, 1, 1, f"messages[0].content[{place}]")


def job(*parts: TextPart | ImagePart, n: int = 1, seed: int | None = 7, max_tokens: int = 50, **fields: Any) -> ChatJob:
    parts = parts or (TextPart("hi"),)
    return ChatJob((Message("user", parts),), Sampling(max_tokens, seed=seed), n, **fields)


def texts(events: Sequence[ChatEvent]) -> dict[int, str]:
    """What each choice said."""
    said: dict[int, str] = {}
    for choice in events:
        if isinstance(choice, ChoiceEvents):
            words = "".join(event.text for event in choice.events if isinstance(event, TokenDelta))
            said[choice.index] = said.get(choice.index, "") + words
    return said


async def test_a_chat_starts_then_tells_what_the_stage_tells_and_ends_with_its_end(scene: Scene) -> None:
    started, *events = await scene.chat(job(TextPart("hello")))
    assert started == ChatStarted(prompt_tokens=5)
    assert texts(events) == {0: "0 50 7"}
    last = events[-1]
    assert isinstance(last, ChoiceEvents)
    assert last.events[-1] == GenerationEnd("stop", 3)


async def test_what_an_answer_must_be_is_never_checked_on_the_event_loop(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`(a|b|c){1,100000}` is short to write and long to compile."""
    checked, asked = CheckedOn(monkeypatch), job()
    constraint = Constraint(ConstraintKind.REGEX, "a+")
    await scene.chat(replace(asked, sampling=replace(asked.sampling, constraint=constraint)))
    assert checked.is_off_loop


async def test_choices_differ_by_their_seed(scene: Scene) -> None:
    assert texts(await scene.chat(job(n=3))) == {0: "0 50 7", 1: "0 50 8", 2: "0 50 9"}
    assert texts(await scene.chat(job(seed=None))) == {0: "0 50 None"}


async def test_images_are_sent_as_recipes_and_their_features_never_come_here(scene: Scene) -> None:
    context = RequestContext(id="mine", tenant="t", salt="s", priority=3)
    events = await scene.chat(job(image(b"abc"), TextPart("?"), image(b"de", 2)), context)
    assert texts(events) == {0: "5 50 7"}  # the features' 3 and 2
    assert set(scene.client.bytes_from) == {LLM}
    assert scene.client.bytes_from[LLM] < 4096
    (item,) = scene.client.items
    assert (item.id, item.priority, item.tenant, item.payload.salt) == ("mine:choice:0", 3, "t", "s")
    assert [(span.offset, span.length) for span in item.payload.images] == [(0, 4), (5, 4)]


async def test_the_receipt_tells_of_the_images_and_the_answer(scene: Scene) -> None:
    context, again = RequestContext(), RequestContext()
    await scene.chat(job(image(b"abc")), context)
    await scene.host.settled()
    await scene.chat(job(image(b"abc")), again)
    assert [(receipt.stage, receipt.cache) for receipt in context.receipts] == [(VISION, "miss"), (LLM, "off")]
    assert [(receipt.stage, receipt.cache) for receipt in again.receipts] == [(VISION, "memory"), (LLM, "off")]
    assert context.device_seconds() > 0


async def test_choices_about_an_image_see_it_once(scene: Scene) -> None:
    context = RequestContext()
    scene.vision.gate.close()
    chatting = asyncio.create_task(scene.chat(job(image(b"abc"), n=3), context))
    await once(lambda: scene.host.metrics()[1].counters["waiting_for_inputs"] == 3)
    scene.vision.gate.open()
    assert texts(await chatting) == {index: f"3 50 {7 + index}" for index in range(3)}
    assert len(scene.vision.made) == 1
    seen = sorted(receipt.cache for receipt in context.receipts if receipt.stage == VISION)
    assert seen == ["joined", "joined", "miss"]


async def test_what_belongs_to_one_tenant_is_never_found_by_another(scene: Scene) -> None:
    for salt in ("one", "two"):
        await scene.chat(job(image(b"abc")), RequestContext(salt=salt))
        await scene.host.settled()
    assert len(scene.vision.made) == 2


async def test_an_image_that_the_llms_slots_cover_asks_for_no_features(scene: Scene) -> None:
    await scene.chat(job(image(b"abc")))
    (span,) = scene.client.items[0].payload.images
    scene.llm.holds.add(span.features.name)
    await scene.host.settled()
    context = RequestContext()
    lookups = scene.memory.stats().hits + scene.memory.stats().misses
    await scene.chat(job(image(b"abc")), context)
    assert [receipt.stage for receipt in context.receipts] == [LLM]
    assert scene.memory.stats().hits + scene.memory.stats().misses == lookups


async def test_what_is_no_image_is_named_by_its_own_field(scene: Scene) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await scene.chat(job(image(b"abc"), image(BAD, 1)))
    assert raised.value.param == "messages[0].content[1]"


async def test_a_model_without_eyes_refuses_images_before_anything_runs(scene: Scene) -> None:
    with pytest.raises(InvalidRequest, match="sees no images") as raised:
        await anext(scene.pipeline(sees=False).chat(job(image(b"abc", 5)), RequestContext()))
    assert raised.value.param == "messages[0].content[5]"
    assert scene.client.items == []


@pytest.mark.parametrize(
    ("letters", "asked", "may_shorten", "given"),
    [(10, 50, False, 50), (10, 190, False, 190), (10, 191, True, 190), (150, 500, True, 50), (199, 1, False, 1)],
)
async def test_an_answer_is_as_long_as_is_asked_or_as_fits(
    scene: Scene, letters: int, asked: int, may_shorten: bool, given: int
) -> None:
    await scene.chat(job(TextPart("x" * letters), max_tokens=asked, may_shorten=may_shorten))
    assert scene.client.items[0].payload.sampling.max_tokens == given


@pytest.mark.parametrize(
    ("letters", "asked", "may_shorten", "param"), [(10, 191, False, "max_tokens"), (200, 1, True, "messages")]
)
async def test_what_is_longer_than_the_context_is_refused_with_the_setting(
    scene: Scene, letters: int, asked: int, may_shorten: bool, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{param}:? .*models\.\*\.llm\.max_context_tokens") as raised:
        await scene.chat(job(TextPart("x" * letters), max_tokens=asked, may_shorten=may_shorten))
    assert raised.value.param == param


async def test_time_that_is_up_while_the_image_is_seen_ends_the_chat(scene: Scene) -> None:
    scene.vision.gate.close()
    with pytest.raises(DeadlineExceeded):
        await scene.chat(job(image(b"abc")), RequestContext(deadline=time.time() + 0.05))
    assert scene.llm.started == []


async def test_time_that_is_up_while_the_answer_is_written_ends_the_chat(scene: Scene) -> None:
    scene.llm.gate.close()
    with pytest.raises(DeadlineExceeded):
        await scene.chat(job(), RequestContext(deadline=time.time() + 0.05))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stuck_at", ["seeing", "answering"])
async def test_a_client_that_goes_away_stops_everything_wherever_it_is(scene: Scene, stuck_at: str, n: int) -> None:
    gate = scene.vision.gate if stuck_at == "seeing" else scene.llm.gate
    gate.close()
    chatting = asyncio.create_task(scene.chat(job(image(b"abc"), n=n)))
    await asyncio.to_thread(gate.wait_for, 1)
    chatting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chatting
    gate.open()
    await once(lambda: not scene.llm.running)
    vision, llm = scene.host.metrics()
    assert llm.counters["waiting_for_inputs"] == llm.counters["queued"] == llm.counters["running"] == 0
    assert vision.counters["cancelled_total"] + llm.counters["cancelled_total"] >= 1


@pytest.mark.parametrize("n", [1, 3])
async def test_closing_a_chat_in_the_middle_frees_its_rows(scene: Scene, n: int) -> None:
    scene.llm.gate.close()
    scene.llm.gate.let(1)
    async with aclosing(scene.pipeline().chat(job(n=n), RequestContext())) as events:
        await anext(events)
        await anext(events)
    scene.llm.gate.open()
    await once(lambda: not scene.llm.running)
    assert scene.host.load()[LLM].queued == 0


async def test_what_is_refused_beforehand_has_begun_nothing(scene: Scene) -> None:
    scene.client.refusal = QueueFull("too much to do", retry_after_s=3.0)
    with pytest.raises(QueueFull):
        await scene.chat(job(TextPart("what is this"), image(b"abc")))
    assert not scene.client.items
    encoder, llm = scene.client.visits
    assert (encoder.stage, llm.stage) == (VISION, LLM)
    assert encoder.work is not None
    assert llm.work is not None
    assert llm.work.amount > 12


async def test_several_answers_are_asked_for_as_so_much_work_in_the_same_steps(scene: Scene) -> None:
    scene.client.refusal = QueueFull("too much to do", retry_after_s=3.0)

    async def asked(n: int) -> list[Work | None]:
        scene.client.visits.clear()
        with pytest.raises(QueueFull):
            await scene.chat(job(TextPart("what is this"), image(b"abc"), n=n))
        return [visit.work for visit in scene.client.visits]

    (encoding, one), found = await asked(1), await asked(4)
    assert one is not None
    assert found == [encoding, Work(4 * one.amount, one.steps)]


async def test_two_prompts_that_begin_alike_are_known_to(scene: Scene) -> None:
    for said in ("a" * 80, "a" * 140, "b" * 80):
        await scene.chat(job(TextPart(said)))
    first, longer, other = (item.hints.chain for item in scene.client.items)
    assert (len(first), len(longer), len(other)) == (1, 2, 1)
    assert longer[0] == first[0] != other[0]


async def test_a_stream_that_ends_without_an_end_is_a_failure(scene: Scene) -> None:
    class Silent:
        def admit(self, visits: object, **options: object) -> None: ...

        def forecast(self, visits: object, **options: object) -> None: ...

        async def stream(self, stage: str, item: object, **options: object) -> Any:
            yield [TokenDelta("so", 1), StreamEnd(StageReceipt(stage))]

    with pytest.raises(StageFailed, match="without an end"):
        [event async for event in scene.pipeline(Silent()).chat(job(), RequestContext())]


async def test_a_replica_that_dies_before_the_first_word_is_not_noticed(scene: Scene) -> None:
    llms: list[FakeLlm] = []

    def make() -> StageHost:
        llms.append(FakeLlm())
        llms[-1].gate.close()
        host = StageHost(elsewhere=LocalStageClient(scene.host))
        host.add(LLM, llms[-1])
        return host

    deployment = FakeDeployment(make)
    handles: Any = {"d": deployment.handle}
    pipeline = scene.pipeline(ServeStageClient(handles, {LLM: ["d"]}))

    async def chat() -> list[ChatEvent]:
        return [event async for event in pipeline.chat(job(image(b"abc")), RequestContext())]

    chatting = asyncio.create_task(chat())
    await asyncio.to_thread(llms[0].gate.wait_for, 1)
    deployment.kill()
    llms[1].gate.let(1)
    await asyncio.to_thread(llms[1].gate.wait_for, 2)
    assert len(scene.vision.made) == 1  # only what was lost is done again
    llms[1].gate.open()
    assert texts(await chatting) == {0: "3 50 7"}
    assert deployment.returned_bytes < 8192
    llms[0].gate.open()
    await deployment.close()


async def test_a_replica_that_dies_in_the_middle_of_an_answer_ends_it_where_it_did_not_tell_its_tokens(scene: Scene) -> None:
    llm = FakeLlm()
    llm.gate.close()

    def make() -> StageHost:
        host = StageHost()
        host.add(LLM, llm)
        return host

    deployment = FakeDeployment(make)
    handles: Any = {"d": deployment.handle}
    llm.gate.let(1)
    async with aclosing(scene.pipeline(ServeStageClient(handles, {LLM: ["d"]})).chat(job(), RequestContext())) as events:
        await anext(events)
        await anext(events)
        deployment.kill()
        llm.gate.open()
        with pytest.raises(Unavailable):
            await anext(events)
    await deployment.close()


async def test_an_image_that_occurs_twice_travels_once_and_each_has_its_own_field(scene: Scene) -> None:
    data = bytes(LARGE_BYTES + 1)
    await scene.chat(job(image(data), image(bytes(bytearray(data)), 1), image(data[1:], 2)))
    (item,) = scene.client.items
    _, beside = packed(item)
    assert len(beside) == 2
    params = [span.features.param for span in item.payload.images]
    assert params == [f"messages[0].content[{place}]" for place in range(3)]


async def test_an_image_was_seen_before_the_answer_was_begun(scene: Scene) -> None:
    context = RequestContext(pace_s=float("inf"))
    scene.llm.gate.close()
    chatting = asyncio.create_task(scene.chat(job(image(b"abc")), context))
    await asyncio.to_thread(scene.llm.gate.wait_for, 1)
    began = time.monotonic()
    await asyncio.to_thread(scene.vision.gate.wait_for, 1)
    passed_s = time.monotonic() - began
    scene.llm.gate.open()
    await chatting
    vision, llm = context.receipts
    assert vision.ended_s + passed_s <= llm.ended_s
