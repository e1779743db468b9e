"""Triptych as its users meet it: real Ray, real models, the `openai` SDK."""

import asyncio
import base64
import io
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openai
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from demo.held_out import example
from tests.cluster.server import Server, eventually, grown

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SEE, PAINT, CLIP = "triptych-see", "triptych-paint", "triptych-clip"


def question(text: str, image: bytes) -> list[Any]:
    address = "data:image/png;base64," + base64.b64encode(image).decode()
    content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def fresh_image(seed: int) -> bytes:
    """An image that nobody has asked about before."""
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def receipt_of(answer: Any) -> dict[str, Any]:
    stages: list[dict[str, Any]] = answer.model_extra["triptych"]["stages"]
    return {stage["stage"]: stage for stage in stages}


def painted_in(answer: Any) -> NDArray[np.int64]:
    """[height, width, 3], signed so that differences can be taken."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))).astype(np.int64)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are ordinary ones")
def test_all_replicas_are_forks_of_one_process(server: Server) -> None:
    deployments = [name for name, replicas in server.replicas().items() if replicas]
    parents = {psutil.Process(pid).ppid() for name in deployments for pid in server.pids(name)}
    assert len(deployments) > 4
    assert len(parents) == 1
    assert "fork_server" in " ".join(psutil.Process(parents.pop()).cmdline())


def test_a_text_question_is_answered(server: Server) -> None:
    answer = server.openai.chat.completions.create(
        model=SEE, messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0, max_tokens=24
    )
    assert "Paris" in str(answer.choices[0].message.content)
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 24


def test_a_streamed_answer_is_the_same_answer_and_carries_usage(server: Server) -> None:
    messages: list[Any] = [{"role": "user", "content": "Name three fruits."}]
    whole = server.openai.chat.completions.create(model=SEE, messages=messages, temperature=0, max_tokens=32)
    chunks = list(
        server.openai.chat.completions.create(
            model=SEE, messages=messages, temperature=0, max_tokens=32, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert whole.usage is not None
    assert [usage.completion_tokens for usage in usages] == [whole.usage.completion_tokens]


def test_the_second_question_about_an_image_does_not_run_the_encoder(server: Server) -> None:
    image = fresh_image(1)
    first = server.openai.chat.completions.create(
        model=SEE, messages=question("What is this?", image), temperature=0, max_tokens=4
    )
    again = server.openai.chat.completions.create(
        model=SEE, messages=question("Is it red?", image), temperature=0, max_tokens=4
    )
    assert receipt_of(first)[f"{SEE}.vision_encoder"]["cache"] == "miss"
    second = receipt_of(again).get(f"{SEE}.vision_encoder")
    if second is not None:  # else a slot of the LLM holds the image, and nobody needs its features
        assert second["cache"] in ("memory", "redis")
        assert second["run_s"] == 0


def test_an_image_is_painted_and_the_same_seed_paints_it_again(server: Server) -> None:
    images = []
    for _ in range(2):
        answer = server.openai.images.generate(
            model=PAINT,
            prompt=example().sentence,
            size="64x64",
            response_format="b64_json",
            extra_body={"seed": 11},
        )
        images.append(painted_in(answer))
    assert images[0].shape == (64, 64, 3)
    assert np.abs(images[0] - images[1]).max() <= 2


def test_an_image_is_edited_and_the_second_edit_of_it_does_not_run_the_encoder(server: Server) -> None:
    image = Image.open(io.BytesIO(example().image_png)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "BMP")  # bytes that no other test sends
    little, much = [
        server.openai.images.edit(
            model=PAINT, image=buffer.getvalue(), prompt=example().sentence, extra_body={"strength": strength, "seed": 11}
        )
        for strength in (0.1, 1.0)
    ]
    assert receipt_of(little)[f"{PAINT}.vae_encoder"]["cache"] == "miss"
    again = receipt_of(much)[f"{PAINT}.vae_encoder"]
    assert again["cache"] in ("memory", "redis")
    assert again["run_s"] == 0
    assert [receipt_of(answer)[f"{PAINT}.denoiser"]["steps"] for answer in (little, much)] == [2, 20]
    changes = [np.abs(painted_in(answer) - np.asarray(image).astype(int)).mean() for answer in (little, much)]
    assert changes[0] < changes[1]


def test_a_stage_scaled_to_zero_starts_on_its_first_request(server: Server) -> None:
    answer = server.openai.embeddings.create(model=CLIP, input=["a red circle", "a blue square"])
    assert [len(row.embedding) for row in answer.data] == [len(answer.data[0].embedding)] * 2
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-3)
    eventually(lambda: server.replicas()["clip"] == 1, "its replica is told")


LONG_WORK: dict[str, tuple[str, dict[str, Any]]] = {
    f"{PAINT}.denoiser": (
        "/v1/images/generations",
        {"model": PAINT, "prompt": "a red ring", "num_inference_steps": 150, "triptych": {"progress": True}},
    ),
    f"{SEE}.llm": (
        "/v1/chat/completions",
        {"model": SEE, "messages": [{"role": "user", "content": "Count to 900."}], "temperature": 0, "max_tokens": 1500},
    ),
}


@pytest.mark.parametrize("stage", LONG_WORK)
def test_a_client_that_goes_away_frees_its_row(server: Server, stage: str) -> None:
    path, body = LONG_WORK[stage]
    before = server.counts("triptych_stage_cancelled_total", stage)
    with server.http.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        next(response.iter_lines())
    eventually(lambda: grown(before, server.counts("triptych_stage_cancelled_total", stage)) == 1, f"{stage} cancels")
    eventually(lambda: server.counter("triptych_stage_running", stage) == 0, f"{stage} is free")


def test_a_deadline_gives_504_and_frees_the_denoiser(server: Server) -> None:
    body = {"model": PAINT, "prompt": "a blue star", "num_inference_steps": 150}
    answer = server.http.post("/v1/images/generations", json=body, headers={"x-request-timeout-seconds": "0.5"})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"
    eventually(lambda: server.counter("triptych_stage_running", f"{PAINT}.denoiser") == 0, "the denoiser is free")


@pytest.mark.parametrize("given", ["trace-1.2:3", "a b", None])
def test_header_and_receipt_have_one_request_id_through_serves_proxy(server: Server, given: str | None) -> None:
    body = {"model": SEE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {} if given is None else {"x-request-id": given}
    answer = server.http.post("/v1/chat/completions", json=body, headers=headers)
    ids = answer.headers.get_list("x-request-id")
    assert [answer.json()["triptych"]["request_id"]] == ids
    assert (ids == [given]) == (given == "trace-1.2:3")


def test_errors_are_the_sdks_own(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        server.openai.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError, match="64x64"):
        server.openai.images.generate(model=PAINT, prompt="x", size="1024x1024")
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\]"):
        server.openai.chat.completions.create(model=SEE, messages=question("what?", b"\x89PNG\r\n\x1a\nnot an image"))


async def painted_by(client: openai.AsyncOpenAI, index: int, steps: int) -> Any:
    return await client.images.generate(
        model=PAINT, prompt=f"a red circle on a gray background {index}", extra_body={"num_inference_steps": steps}
    )


def test_while_serves_controller_is_away_readiness_is_told_at_once_and_chats_go_on(server: Server) -> None:
    def readiness(_: object = None) -> tuple[int, float]:
        ready = server.http.get("/ready")
        return ready.status_code, ready.json().get("age_s", math.inf)

    def chat() -> str | None:
        asked: list[Any] = [{"role": "user", "content": "Say hello."}]
        return server.openai.chat.completions.create(model=SEE, messages=asked, max_tokens=4).choices[0].message.content

    assert chat()
    eventually(lambda: readiness()[1] < math.inf, "the controller has been heard")
    with server.controller_away(), ThreadPoolExecutor(8) as callers:
        told = list(callers.map(readiness, range(8)))  # the first find out that it is away
        later = list(callers.map(readiness, range(8)))
        assert chat()
    assert {status for status, _ in (*told, *later)} == {200}
    assert min(age_s for _, age_s in later) > 0
    eventually(lambda: readiness()[1] < 1, "the controller is heard again")


def test_the_denoiser_scales_alone_under_image_load_and_scales_back(server: Server) -> None:
    """Callers ask until there is another: how long it takes to start, and they to be answered, is the machine's affair."""

    def alone() -> bool:
        replicas = server.replicas()
        return (replicas["denoiser"], replicas["llm"]) == (1, 1)

    eventually(alone, "nothing is left of other tests' load")

    async def load_until_scaled() -> None:
        scaled = asyncio.Event()

        async def keep_painting(client: openai.AsyncOpenAI, index: int) -> None:
            while not scaled.is_set():
                assert len((await painted_by(client, index, 25)).data) == 1

        async with server.async_openai() as client, asyncio.TaskGroup() as together:
            for index in range(24):
                together.create_task(keep_painting(client, index))
            while (replicas := await asyncio.to_thread(server.replicas))["denoiser"] < 2:
                assert replicas["llm"] == 1
                await asyncio.sleep(0.5)
            scaled.set()

    asyncio.run(load_until_scaled())
    eventually(alone, "the denoiser scales back")


def test_requests_survive_a_killed_replica(server: Server) -> None:
    """kill -9 of the denoiser while it paints: the running request is made again elsewhere, and new ones succeed."""

    async def kill_while_painting() -> list[Any]:
        async with server.async_openai() as client:
            work = asyncio.gather(*(painted_by(client, index, 90) for index in range(2)))
            await asyncio.to_thread(
                eventually, lambda: server.counter("triptych_stage_running", f"{PAINT}.denoiser") > 0, "the denoiser runs"
            )
            assert server.kill("denoiser")
            return await work

    assert len(asyncio.run(kill_while_painting())) == 2
    answer = server.openai.images.generate(model=PAINT, prompt="a green square")
    assert answer.data is not None
    assert answer.data[0].b64_json


@dataclass
class Streamed:
    text: str = ""
    completion_tokens: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)


async def counted_aloud(server: Server, begun: Callable[[], Any]) -> list[Streamed]:
    """Four answers beside one another, as they stream. `begun`: called once, when all of them have begun."""
    everyone, told = asyncio.Barrier(5), [Streamed() for _ in range(4)]

    async def read(client: openai.AsyncOpenAI, first: int, into: Streamed) -> None:
        asked: list[Any] = [{"role": "user", "content": f"Count from {first} to {first + 60}, one number a line."}]
        stream = await client.chat.completions.create(
            model=SEE, messages=asked, temperature=0, max_tokens=120, stream=True, stream_options={"include_usage": True}
        )
        has_begun = False
        async for chunk in stream:
            into.text += "".join(choice.delta.content or "" for choice in chunk.choices)
            if chunk.usage is not None:
                into.completion_tokens = chunk.usage.completion_tokens
            into.stages += (chunk.model_extra or {}).get("triptych", {}).get("stages", [])
            if len(into.text) > 8 and not has_begun:
                has_begun = True
                await everyone.wait()

    async with server.async_openai() as client, asyncio.TaskGroup() as together:
        for number, into in enumerate(told):
            together.create_task(read(client, 10 * number + 1, into))
        await everyone.wait()
        begun()
    return told


def test_streams_go_on_where_a_killed_llm_left_them(server: Server) -> None:
    """kill -9 of the only replica under four streams: each of them is the answer that it would have been."""
    whole = asyncio.run(counted_aloud(server, lambda: None))
    killed: list[int] = []

    told = asyncio.run(counted_aloud(server, lambda: killed.extend(server.kill("llm"))))
    assert killed
    assert [one.text for one in told] == [one.text for one in whole]
    assert [one.completion_tokens for one in told] == [one.completion_tokens for one in whole]
    for one in told:
        first, second = (stage for stage in one.stages if stage["stage"] == f"{SEE}.llm")
        assert (first["ended_early"], second.get("ended_early")) == (True, None)
        assert first["replica"] != second["replica"]
    eventually(
        lambda: server.counter("triptych_stage_continued_total", f"{SEE}.llm") == len(told), "what was continued is counted"
    )
