"""What an error says of the server's inside stays in the log, under the request's id: no path, class, shape or address in any answer."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from stages.contract.errors import (
    Broken,
    ConfigurationError,
    InvalidRequest,
    OutOfMemory,
    ReplicaLost,
    StageFailed,
    TriptychError,
    Unavailable,
)
from stages.images.image import inspect
from tests.pipelines.ingress.fakes import CHAT, EMBED, PAINT, FakeService, Trouble
from tests.pipelines.ingress.staged import Staged
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, png

SECRET = "/home/ada/models: mat1 and mat2 shapes cannot be multiplied (77x32 and 64x64)"
ID = "request-7"
CHATTING = ("/v1/chat/completions", chat_body())
PAINTING: tuple[str, JsonObject] = ("/v1/images/generations", {"model": PAINT, "prompt": "a boat", "size": "64x64"})
COMPLETING: tuple[str, JsonObject] = ("/v1/completions", {"model": CHAT, "prompt": "a b"})
RESPONDING: tuple[str, JsonObject] = ("/v1/responses", {"model": CHAT, "input": "a b"})
EMBEDDING: tuple[str, JsonObject] = ("/v1/embeddings", {"model": EMBED, "input": ["a", "b"]})

ERRORS: list[Exception] = [
    RuntimeError(SECRET),
    StageFailed(SECRET),
    StageFailed("it failed", detail=SECRET),
    OutOfMemory("no room", detail=SECRET),
    ReplicaLost("it ended", detail=SECRET),
    ConfigurationError(SECRET),
    TriptychError(SECRET),
    Unavailable("away", detail=SECRET),
    Broken("its device broke", detail=SECRET),
    InvalidRequest("steps 9 are too many", param="steps", detail=SECRET),
]


@pytest.fixture
async def service() -> AsyncIterator[Staged]:
    service = Staged()
    yield service
    await service.close()


async def told(service: FakeService, path: str, body: JsonObject, **fields: Any) -> str:
    """All of an answer that a client sees."""
    async with client_for(service) as client:
        answer = await client.post(path, json={**body, **fields}, headers={"x-request-id": ID})
    return f"{answer.headers} {answer.text}"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    ("path", "body"), [CHATTING, PAINTING, COMPLETING, RESPONDING], ids=["chat", "paint", "complete", "respond"]
)
async def test_no_error_tells_a_client_what_is_for_the_log(
    caplog: pytest.LogCaptureFixture, error: Exception, after: int, path: str, body: JsonObject
) -> None:
    caplog.set_level("INFO")
    service = FakeService(trouble=Trouble(error, after=after))
    answer = await told(service, path, body, stream=after > 0)
    assert "error" in answer
    assert "shapes" not in answer
    assert any(ID in line.getMessage() and SECRET in caplog.text for line in caplog.records)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        (*CHATTING, "llm.prepare"),
        (*CHATTING, "llm.start"),
        (*CHATTING, "llm.step"),
        (*CHATTING, "llm.check"),
        (*PAINTING, "denoiser.step"),
        (*PAINTING, "decoder.run"),
        (*PAINTING, "text.run"),
        (*EMBEDDING, "embedder.run"),
        (*EMBEDDING, "embedder.prepare"),
        (*EMBEDDING, "embedder.weigh"),
    ],
)
async def test_wherever_a_stage_fails_its_words_are_in_two_logs_and_in_no_answer(
    service: Staged, caplog: pytest.LogCaptureFixture, path: str, body: JsonObject, where: str, stream: bool
) -> None:
    def fail(*values: Any) -> Any:
        raise RuntimeError(SECRET)

    stage, method = where.split(".")
    setattr(getattr(service, stage), method, fail)
    answer = await told(service, path, body, **({"stream": True} if stream and path != EMBEDDING[0] else {}))
    assert '"code":"stage_failed"' in answer
    assert f"the log says more under request id {ID}" in answer
    for word in ("shapes", "home", "RuntimeError", "Traceback"):
        assert word not in answer
    logs = {line.name: line for line in caplog.records if ID in line.getMessage()}
    assert {"triptych.stages", "pipelines.ingress.request.errors"} <= set(logs)  # where it failed, and where it was answered
    assert SECRET in logs["pipelines.ingress.request.errors"].getMessage()
    assert SECRET in str(logs["triptych.stages"].exc_info)


async def test_a_device_that_broke_is_told_without_what_broke_it(service: Staged, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*values: Any) -> Any:
        raise RuntimeError(f"CUDA error: an illegal memory access was encountered at {SECRET}")

    service.llm.step = fail  # type: ignore[method-assign, assignment]
    first, second = await told(service, *CHATTING), await told(service, *CHATTING)
    assert '"code":"unavailable"' in first + second
    assert "illegal" not in first + second
    assert SECRET in caplog.text


async def test_a_stage_that_is_not_there_is_no_affair_of_a_clients(service: Staged) -> None:
    service.host._hosted.pop(f"{CHAT}.llm")
    answer = await told(service, *CHATTING)
    assert '"code":"configuration_error"' in answer
    assert "hosted" not in answer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError("image file is truncated (3 bytes not processed)"), "image file is truncated (3 bytes not processed)"),
        (SyntaxError("broken PNG file"), "broken PNG file"),
        (OSError("cannot identify image file <_io.BytesIO object at 0x7f>"), "it is damaged"),
        (TypeError("unsupported operand type(s) for >>: 'NoneType' and 'int'"), "it is damaged"),
        (ValueError("buffer is smaller than requested size"), "it is damaged"),
    ],
)
def test_of_an_image_that_cannot_be_read_a_client_is_told_what_is_wrong_with_the_file(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(*values: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(InvalidRequest) as refused:
        inspect(png(), max_bytes=1000, max_pixels=1000, param="image")
    assert refused.value.message == f"image: not an image that can be read: {told}"
    assert str(error) in str(refused.value)
