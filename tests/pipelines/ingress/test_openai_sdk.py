"""The surface as OpenAI's own SDK sees it, over a real socket, with and without asyncio."""

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from pipelines.ingress.request.settings import IngressSettings
from pipelines.jobs import GivenImage, ImagePart, PaintJob
from stages.contract.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    QueueFull,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
)
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, WIDTH, FakeService, Trouble
from tests.pipelines.ingress.surface import data_url, png, server_for

KEY = "a key"
SETTINGS = IngressSettings(keys={hashlib.sha256(KEY.encode()).hexdigest(): "ada"}, heartbeat_s=0.001)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
async def address(service: FakeService) -> AsyncIterator[str]:
    async with server_for(service, SETTINGS) as address:
        yield f"{address}/v1"


@pytest.fixture
async def client(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
        yield client


async def test_a_chat_with_an_image(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=CHAT,
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": data_url(png(6, 5)), "detail": "high"}},
                ],
            },
        ],
    )
    assert answer.choices[0].message.content == "You said: Be brief. What is it? [6x5]"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 6
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.model_extra is not None
    assert answer.model_extra["triptych"]["stages"]


async def test_an_answer_of_the_sdk_can_be_sent_back_as_it_is(client: openai.AsyncOpenAI) -> None:
    first = await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a"}])
    again = await client.chat.completions.create(
        model=CHAT,
        messages=[
            {"role": "user", "content": "a"},
            first.choices[0].message.model_dump(),  # type: ignore[list-item]
            {"role": "user", "content": "b"},
        ],
    )
    assert again.choices[0].message.content == "You said: a You said: a b"


async def test_a_streamed_chat_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "a b"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "You said: a b"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


async def test_the_sdks_own_collector_of_streams(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model=CHAT, messages=[{"role": "user", "content": "a b"}], n=2, logprobs=True, top_logprobs=2
    ) as stream:
        answer = await stream.get_final_completion()
    assert [choice.message.content for choice in answer.choices] == ["You said: a b"] * 2
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert [entry.token for entry in answer.choices[0].logprobs.content] == ["You", " said:", " a", " b"]
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


async def test_images_as_base64_and_by_address(client: openai.AsyncOpenAI) -> None:
    answer = await client.images.generate(
        model=PAINT, prompt="a boat", n=2, size="48x32", output_format="webp", extra_body={"num_inference_steps": 3, "seed": 4}
    )
    assert answer.data is not None
    assert [Image.open(io.BytesIO(base64.b64decode(item.b64_json or ""))).size for item in answer.data] == [(48, 32)] * 2
    assert (answer.size, answer.output_format) == ("48x32", "webp")
    linked = await client.images.generate(model=PAINT, prompt="a boat", response_format="url")
    assert linked.data is not None
    assert linked.data[0].url is not None
    assert linked.data[0].url.startswith(str(client.base_url))


async def test_streamed_images_with_previews(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.generate(model=PAINT, prompt="a boat", stream=True, partial_images=2)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    last = events[-1]
    assert last.type == "image_generation.completed"
    assert last.usage.total_tokens == 0
    assert Image.open(io.BytesIO(base64.b64decode(last.b64_json))).size == (32, 32)


FILE_FORMS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: path.read_bytes(),
    "an open file": lambda path: io.BytesIO(path.read_bytes()),
    "a path": lambda path: path,
    "a name and bytes": lambda path: ("boat.png", path.read_bytes()),
    "a name, bytes and a type": lambda path: ("boat.png", path.read_bytes(), "image/png"),
    "a list of one": lambda path: [path.read_bytes()],
}


@pytest.mark.parametrize("form", FILE_FORMS)
async def test_an_edit_of_an_image_in_every_form_of_a_file(
    client: openai.AsyncOpenAI, service: FakeService, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "boat.png"
    path.write_bytes(png(6, 5))
    answer = await client.images.edit(
        model=PAINT,
        image=FILE_FORMS[form](path),
        prompt="a boat",
        n=2,
        extra_body={"strength": 0.5, "seed": 4, "triptych": {"priority": 3, "num_inference_steps": 3}},
    )
    assert answer.data is not None
    assert [Image.open(io.BytesIO(base64.b64decode(item.b64_json or ""))).size for item in answer.data] == [(6, 5)] * 2
    image = ImagePart(path.read_bytes(), 6, 5, "image")
    assert service.jobs == [PaintJob("a boat", n=2, steps=3, seed=4, init=GivenImage(image, 0.5))]
    assert service.contexts[0].priority == 3


async def test_a_streamed_edit_with_previews(client: openai.AsyncOpenAI) -> None:
    stream = await client.images.edit(
        model=PAINT, image=png(), prompt="a boat", stream=True, partial_images=2, size="48x32", output_format="webp"
    )
    events = [event async for event in stream]
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [type(event).__name__ for event in events] == ["ImageEditPartialImageEvent"] * 2 + ["ImageEditCompletedEvent"]
    assert Image.open(io.BytesIO(base64.b64decode(events[-1].b64_json))).size == (48, 32)


async def test_an_edit_with_a_mask_and_what_openai_documents(client: openai.AsyncOpenAI, service: FakeService) -> None:
    answer = await client.images.edit(
        image=png(6, 5), mask=png(6, 5, "blue"), prompt="a boat", quality="high", input_fidelity="high", background="auto"
    )
    assert answer.data is not None
    (job,) = service.jobs
    assert isinstance(job, PaintJob)
    assert job.init is not None
    assert job.init.mask == ImagePart(png(6, 5, "blue"), 6, 5, "mask")
    with pytest.raises(openai.BadRequestError, match="images are opaque"):
        await client.images.edit(model=PAINT, image=png(), prompt="a boat", background="transparent")


async def test_embeddings_which_the_sdk_asks_for_in_base64(client: openai.AsyncOpenAI) -> None:
    packed = await client.embeddings.create(model=EMBED, input=["a boat", "a hut"])
    plain = await client.embeddings.create(model=EMBED, input=["a boat", "a hut"], encoding_format="float")
    assert [len(item.embedding) for item in packed.data] == [WIDTH, WIDTH]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding)
    assert packed.usage.total_tokens == 4


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == [CHAT, PAINT, EMBED]
    assert (await client.models.retrieve(PAINT)).owned_by == "triptych"


async def test_errors_are_the_sdks_own_classes(client: openai.AsyncOpenAI, service: FakeService) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model=CHAT, messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "a"}])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.BadRequestError, match="every model here edits 1 at a time"):
        await client.images.edit(model=PAINT, image=[png(), png()], prompt="a boat")
    service.trouble = Trouble(QueueFull("full", retry_after_s=7))
    with pytest.raises(openai.RateLimitError) as full:
        await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a"}])
    assert full.value.response.headers["retry-after"] == "7"
    assert full.value.code == "queue_full"
    service.trouble = Trouble(Unavailable("no replica", retry_after_s=1))
    with pytest.raises(openai.InternalServerError) as away:
        await client.embeddings.create(model=EMBED, input="a")
    assert away.value.status_code == 503


async def test_an_error_in_a_stream_is_raised_where_the_stream_is_read(
    client: openai.AsyncOpenAI, service: FakeService
) -> None:
    service.trouble = Trouble(StageFailed("the llm broke"), after=2)
    stream = await client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a"}], stream=True)
    with pytest.raises(openai.APIError, match="a stage failed on this request"):
        async for _ in stream:
            pass


async def test_the_sdk_without_asyncio(address: str) -> None:
    def ask() -> tuple[str | None, str, list[str], list[str], int]:
        with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
            whole = client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a"}])
            stream = client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "a"}], stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            events = client.images.generate(model=PAINT, prompt="a boat", stream=True, partial_images=1)
            kinds = [str(event.type) for event in events]
            edited = client.images.edit(model=PAINT, image=png(), prompt="a boat", stream=True, partial_images=1)
            num_embeddings = len(client.embeddings.create(model=EMBED, input="a").data)
            return whole.choices[0].message.content, text, kinds, [str(event.type) for event in edited], num_embeddings

    whole, text, kinds, edited, num_embeddings = await asyncio.to_thread(ask)
    assert whole == text == "You said: a"
    assert kinds == ["image_generation.partial_image", "image_generation.completed"]
    assert edited == ["image_edit.partial_image", "image_edit.completed"]
    assert num_embeddings == 1


RETRIED = [QueueFull("full", retry_after_s=0.001), Unavailable("away", retry_after_s=0.001)]
NOT_RETRIED = [
    StageFailed("the llm broke"),
    ReplicaLost("two replicas ended"),
    ConfigurationError("no such stage"),
    DeadlineExceeded("its time is up"),
    TriptychError("something"),
    RuntimeError("something else"),
    InvalidRequest("steps 9 are too many", param="steps"),
]


@pytest.mark.parametrize("error", [*RETRIED, *NOT_RETRIED], ids=lambda error: type(error).__name__)
async def test_by_itself_the_sdk_asks_again_only_where_that_may_help(
    address: str, service: FakeService, error: Exception
) -> None:
    service.trouble = Trouble(error)
    async with openai.AsyncOpenAI(base_url=address, api_key=KEY) as client:  # as it comes: two more tries
        with pytest.raises(openai.APIStatusError):
            await client.embeddings.create(model=EMBED, input="a")
    assert len(service.jobs) == (1 + openai.DEFAULT_MAX_RETRIES if error in RETRIED else 1)
