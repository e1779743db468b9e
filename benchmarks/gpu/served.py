"""A whole Triptych on the device, asked over HTTP: a vision-language model and a painter of real sizes, each stage a replica of its own on
a share of one GPU.

Tokens a second of whole answers and of streams, beside the same pipeline and engines in this process, without HTTP and without Ray (the
cluster idle meanwhile); chats about new images; paintings, by themselves and beside chats; and replicas that are killed under load.
`run_unlike`: the language model in two pools, on the GPU and on the CPU's cores, beside the GPU alone. Decides loads and configurations.
"""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from PIL import Image

from benchmarks.cache.prompts import CHAT
from benchmarks.gpu.checkpoints import painter, seeing_model
from benchmarks.gpu.part import Part
from benchmarks.llm.questions import text_questions
from benchmarks.llm.sides import GREEDY, MODEL, SAMPLED, Choosing, Question, as_measured
from benchmarks.loads.http_client import DATA, DONE, http_client, post
from benchmarks.loads.load import closed_loop
from benchmarks.mixed.requests import IMAGES
from benchmarks.mixed.server import new_mark
from benchmarks.over_http import InProcess
from benchmarks.servers.parts import MARK, Server
from benchmarks.servers.triptych import Config, served
from pipelines.settings.config_file import parse

PAINT = "paint"
APPLICATION = "triptych"
CONTEXT = 1024


def run(part: Part) -> None:
    config = _config(part)
    began = time.monotonic()
    with _started(config) as server:
        part.add(what="ready", ok=True, seconds=round(time.monotonic() - began, 1))
        with part.trying("who computes where"):
            _stages(part, server)
        with part.trying("chats"), InProcess(parse(_chat_only(config))) as alone:
            _chats(part, server, alone)
        with part.trying("chats about images"):
            _about_images(part, server)
        with part.trying("paintings"):
            _paintings(part, server)
        for deployment in ("llm", "denoiser"):
            with part.trying(f"{deployment}, killed"):
                _killed(part, server, deployment)


def run_unlike(part: Part) -> None:
    for pools in (("llm",), ("llm", "llm-cpu")):
        with part.trying(" and ".join(pools)), _started(_config_of_pools(part, pools)) as server:
            _in_pools(part, server, pools)


# Configurations.


def _config(part: Part) -> Config:
    chat, paint = {"folder": str(seeing_model(part))}, {"folder": str(painter(part))}
    slots, side = part.pick(64, 4), part.pick(1024, 32)
    models = {
        MODEL: {
            "pipeline": "image_text",
            "vision_encoder": {"loader": "transformers", "source": chat},
            "llm": {"source": chat, "num_slots": slots, "max_context_tokens": CONTEXT},
        },
        PAINT: {
            "pipeline": "text_to_image",
            "sizes": [f"{side}x{side}"],
            "default_steps": part.pick(30, 4),
            "keep_steps": [0.5],
            "text_encoder": {"source": paint},
            "denoiser": {"source": paint},
            "vae_decoder": {"source": paint},
        },
    }
    deployments = {
        "llm": _deployment(part, 0.4, f"{MODEL}.llm", max_ongoing_requests=4 * slots),
        "vision": _deployment(part, 0.1, f"{MODEL}.vision_encoder"),
        "denoiser": _deployment(part, 0.3, f"{PAINT}.denoiser"),
        "rest": _deployment(part, 0.2, f"{PAINT}.text_encoder", f"{PAINT}.vae_decoder"),
    }
    return _application(models, deployments)


def _chat_only(config: Config) -> Mapping[str, Any]:
    args = config["applications"][0]["args"]
    deployments = {name: args["deployments"][name] for name in ("llm", "vision")}
    return {**args, "models": {MODEL: args["models"][MODEL]}, "deployments": deployments}


def _config_of_pools(part: Part, pools: Sequence[str]) -> Config:
    """The same model and dtype on both devices."""
    slots, stage = part.pick(16, 2), f"{MODEL}.llm"
    chat = {"folder": str(seeing_model(part))}
    llm = {
        "source": chat,
        "num_slots": slots,
        "max_context_tokens": CONTEXT,
        "dtype": "bfloat16" if not part.quick else "auto",
    }
    models = {MODEL: {"pipeline": "image_text", "llm": llm}}
    found = {"llm": _deployment(part, 1.0, stage, max_ongoing_requests=4 * slots)}
    if "llm-cpu" in pools:
        found["llm-cpu"] = {
            "stages": [stage],
            "num_replicas": 1,
            "torch_threads": part.pick(8, 1),
            "overrides": {stage: {"device": "cpu"}},
            "ray_actor_options": {"num_cpus": 0.5},
            "max_ongoing_requests": 4 * slots,
        }
    return _application(models, found)


def _deployment(part: Part, share: float, *stages: str, **settings: object) -> dict[str, Any]:
    device = {"num_gpus": share} if part.device == "cuda" else {}
    return {"stages": [*stages], "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.3, **device}, **settings}


def _application(models: Mapping[str, Any], deployments: Mapping[str, Any]) -> Config:
    args = {"models": {**models}, "deployments": {**deployments}, "limits": {"default_request_s": 300}}
    args["cache"] = {"redis": {"url": "embedded", "max_memory_bytes": 2**30}, "kv": {"memory_bytes": 2**30}}
    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [{"name": APPLICATION, "route_prefix": "/", "import_path": "pipelines.app:build", "args": args}],
    }


@contextmanager
def _started(config: Config) -> Iterator[Server]:
    mark = new_mark()
    with served(config, env={MARK: mark}) as url:
        yield Server(url, APPLICATION, mark)


# What is asked and seen.


def _stages(part: Part, server: Server) -> None:
    """Every stage is where it was put, in the dtype that the device computes well."""
    models = httpx.get(f"{server.url}/v1/models", trust_env=False, timeout=30).json()["data"]
    for model in models:
        for stage in model["triptych"]["stages"]:
            halved = part.device == "cpu" or stage["dtype"] in ("bfloat16", "float16")
            ok = stage["device"].startswith(part.device) and (halved or "vae" in stage["name"])  # SDXL's asks for float32
            part.add(what="a stage's place", stage=stage["name"], ok=ok, device=stage["device"], dtype=stage["dtype"])


def _chats(part: Part, server: Server, alone: InProcess) -> None:
    """Whole answers, streams, and the engine by itself, in turns; every load is another one."""
    num_tokens, numbers = part.pick(128, 4), itertools.count(1000)
    for at_once in (1, 16, 64) if not part.quick else (1, 4):
        for choosing in (GREEDY, SAMPLED):
            speeds: dict[str, list[float]] = {"engine": [], "HTTP": [], "streams": []}
            for _ in range(part.pick(2, 1)):
                asked = [text_questions(next(numbers))[: 2 * at_once] for _ in speeds]
                engine = alone.answer(asked[0], concurrency=at_once, num_tokens=num_tokens, choosing=choosing)
                speeds["engine"].append(engine.tokens_per_s)
                for side, questions in zip(("HTTP", "streams"), asked[1:], strict=True):
                    measured = _asked(server, questions, at_once, num_tokens, choosing, streamed=side == "streams")
                    speeds[side].append(measured)
            medians = {side: statistics.median(found) for side, found in speeds.items()}
            part.add(
                what="chats",
                at_once=at_once,
                choosing=choosing.name,
                engine_tokens_per_s=round(medians["engine"]),
                http_of_engine=round(medians["HTTP"] / medians["engine"], 3),
                streams_of_engine=round(medians["streams"] / medians["engine"], 3),
                lowest=round(min(speeds["streams"]) / medians["engine"], 3),
            )


def _asked(
    server: Server, questions: Sequence[Question], at_once: int, num_tokens: int, choosing: Choosing, *, streamed: bool
) -> float:
    """Tokens a second."""
    bodies = [question.body(MODEL, num_tokens, choosing) | {"ignore_eos": True} for question in questions]

    async def load() -> float:
        async with http_client(server.url) as client:

            async def send(index: int) -> int:
                if streamed:
                    return await _streamed(client, bodies[index])
                answer = await post(client, CHAT, bodies[index])
                return int(answer["usage"]["completion_tokens"])

            found = await closed_loop(send, len(bodies), concurrency=at_once)
            return as_measured(found, num_tokens).tokens_per_s

    return asyncio.run(load())


async def _streamed(client: httpx.AsyncClient, body: Mapping[str, object]) -> int:
    """How many tokens came. Read as bytes: the client's speed is not what is measured. Raises `RuntimeError` where it breaks off."""
    end = b""
    async with client.stream(
        "POST", CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    ) as response:
        if not response.is_success:
            raise RuntimeError(f"{response.status_code} {(await response.aread())[:300]!r}")
        async for piece in response.aiter_raw():
            end = (end + piece)[-8000:]
    counted = re.findall(rb'"completion_tokens":(\d+)', end)
    if (DATA + DONE).encode() not in end or not counted:
        raise RuntimeError(f"a stream broke off: {end[-300:]!r}")
    return int(counted[-1])


def _about_images(part: Part, server: Server) -> None:
    """Every image is a new one."""
    num_tokens, at_once, count = part.pick(64, 4), part.pick(16, 2), part.pick(64, 4)
    draw = random.Random(1)
    questions = [Question("What is there to see?", _image(draw, part.pick(448, 64))) for _ in range(count)]
    began = time.monotonic()
    speed = _asked(server, questions, at_once, num_tokens, GREEDY, streamed=False)
    part.add(
        what="chats about new images",
        at_once=at_once,
        tokens_per_s=round(speed),
        images_per_s=round(count / (time.monotonic() - began), 1),
    )


def _image(draw: random.Random, side: int) -> str:
    image = Image.frombytes("RGB", (8, 8), draw.randbytes(8 * 8 * 3)).resize((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _paintings(part: Part, server: Server) -> None:
    """By themselves, and beside chats: what each loses by the other."""
    count, steps = part.pick(4, 2), part.pick(30, 4)
    num_tokens, at_once = part.pick(128, 4), part.pick(16, 2)
    seeds = itertools.count(1)

    async def painted(client: httpx.AsyncClient, most: int) -> float:
        """Seconds."""

        async def send(index: int) -> str:
            return await _painting(client, next(seeds), steps)

        return (await closed_loop(send, count, concurrency=most)).wall_s

    async def together() -> tuple[float, float, float, float]:
        async with http_client(server.url) as client:
            await _painting(client, next(seeds), steps)
            single = await painted(client, 1)
            alone = await painted(client, 4)
            stop, lengths = asyncio.Event(), []

            async def chatting(number: int) -> None:
                while not stop.is_set():
                    question = Question(f"{number}: tell me {next(seeds)} things.")
                    answer = await post(client, CHAT, question.body(MODEL, num_tokens, GREEDY) | {"ignore_eos": True})
                    lengths.append(int(answer["usage"]["completion_tokens"]))

            async with asyncio.TaskGroup() as group:
                for number in range(at_once):
                    group.create_task(chatting(number))
                beside = await painted(client, 4)
                num_told = sum(lengths)  # of whole answers: those in flight are left out
                stop.set()
            return single, alone, beside, num_told / beside

    single, alone, beside, tokens_per_s = asyncio.run(together())
    part.add(
        what="paintings",
        steps=steps,
        one_by_one_s=round(single / count, 2),
        images_steps_per_s_one_by_one=round(count * steps / single, 2),
        images_steps_per_s_of_4=round(count * steps / alone, 2),
        images_steps_per_s_of_4_beside_chats=round(count * steps / beside, 2),
        tokens_per_s_beside_paintings=round(tokens_per_s),
    )


async def _painting(client: httpx.AsyncClient, seed: int, steps: int) -> str:
    """The encoded image."""
    body = {"model": PAINT, "prompt": f"a red circle {seed}", "seed": seed, "num_inference_steps": steps}
    answer = await post(client, IMAGES, body)
    return str(answer["data"][0]["b64_json"])


def _killed(part: Part, server: Server, deployment: str) -> None:
    """The deployment's only replica is killed while requests need it: none fails. `same`: how many are what they are undisturbed."""
    at_once, steps = part.pick(16, 2) if deployment == "llm" else part.pick(4, 2), part.pick(30, 4)
    num_tokens = part.pick(400, 200)

    async def ask() -> tuple[int, list[float], int]:
        async with http_client(server.url) as client:

            async def one(number: int) -> str:
                if deployment == "denoiser":
                    return await _painting(client, 1000 + number, steps)
                body = Question(f"{number}: tell me everything.").body(MODEL, num_tokens, GREEDY) | {"ignore_eos": True}
                answer = await post(client, CHAT, body)
                return str(answer["choices"][0]["message"]["content"])

            began, ended = time.monotonic(), []

            async def struck(number: int) -> str:
                found = await one(number)
                ended.append(time.monotonic() - began)
                return found

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(struck(number)) for number in range(at_once)]
                await asyncio.sleep(part.pick(8, 2) / 10)
                in_flight = at_once - len(ended)
                for victim in server.replicas(deployment):
                    victim.kill()
            undisturbed = await asyncio.gather(*(one(number) for number in range(at_once)))
            same = sum(one == task.result() for one, task in zip(undisturbed, tasks, strict=True))
            return in_flight, ended, same

    in_flight, ended, same = asyncio.run(ask())
    part.add(
        what=f"kill -9 of the {deployment}",
        ok=in_flight > 0 and len(ended) == at_once,
        in_flight=in_flight,
        answered=len(ended),
        same=same,
        longest_s=round(max(ended), 1),
    )


def _in_pools(part: Part, server: Server, pools: Sequence[str]) -> None:
    """More than the GPU's slots at once: who answered how many, how fast all are, and how long the slowest took."""
    num_tokens, at_once, count = part.pick(128, 4), part.pick(32, 4), part.pick(160, 8)
    bodies = [question.body(MODEL, num_tokens, GREEDY) | {"ignore_eos": True} for question in text_questions(count + at_once)]

    async def load() -> tuple[float, Counter[str], list[float]]:
        async with http_client(server.url) as client:
            devices: Counter[str] = Counter()

            async def send(index: int) -> int:
                answer = await post(client, CHAT, bodies[index])
                visit = next(one for one in answer["triptych"]["stages"] if one["stage"].endswith(".llm"))
                devices[visit["device"]] += 1
                return int(answer["usage"]["completion_tokens"])

            await closed_loop(
                lambda index: send(count + index), at_once, concurrency=at_once
            )  # so that each pool's speed is known
            devices.clear()
            found = await closed_loop(send, count, concurrency=at_once)
            return as_measured(found, num_tokens).tokens_per_s, devices, sorted(found.latencies_s())

    speed, devices, latencies = asyncio.run(load())
    part.add(
        what="unlike pools",
        pools=" and ".join(pools),
        at_once=at_once,
        tokens_per_s=round(speed),
        p50_s=round(latencies[len(latencies) // 2], 2),
        longest_s=round(latencies[-1], 2),
        **{f"answers_by_{device.replace(':', '_')}": number for device, number in sorted(devices.items())},
    )
