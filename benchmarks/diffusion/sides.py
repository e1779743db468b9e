"""The sides of `benchmarks.diffusion`: the same painter behind Triptych and behind its peers. How each is served and asked."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from benchmarks.loads.http_client import post
from benchmarks.loads.wishes import Wish
from benchmarks.peers.litserve_server import EXACT, LONGEST
from benchmarks.servers import triptych
from benchmarks.servers.server import module, port, serving

MODEL = "triptych-paint"
STAGE = f"{MODEL}.denoiser"
MAX_BATCH = 16
NUM_REPLICAS = 2  # as many as the shipped configuration scales to; they share the cores, a thread each while both paint
LITSERVE_TIMEOUT_S = 0.01  # while a batch runs the next collects anyway; a longer wait only delays who comes to an idle server


@dataclass(frozen=True, slots=True)
class Side:
    """`paint` answers with a PNG."""

    name: str
    serve: Callable[[], AbstractContextManager[str]]
    paint: Callable[[httpx.AsyncClient, Wish], Awaitable[bytes]]
    is_triptych: bool = False


def triptych_side(torch_threads: int) -> Side:
    return Side("triptych", lambda: triptych.served(painter_config(torch_threads)), _paint_by_triptych, is_triptych=True)


def one_at_a_time_side(painter: Path, torch_threads: int) -> Side:
    def serve() -> AbstractContextManager[str]:
        at = port()
        command = module("benchmarks.peers.diffusers_server", folder=painter, port=at, torch_threads=torch_threads)
        return serving(command, port=at)

    return Side("one at a time", serve, _paint_by_peer)


def litserve_side(painter: Path, torch_threads: int, policy: str, workers: int) -> Side:
    """`torch_threads` in all."""

    def serve() -> AbstractContextManager[str]:
        at = port()
        command = module(
            "benchmarks.peers.litserve_server",
            folder=painter,
            port=at,
            torch_threads=max(1, torch_threads // workers),
            workers=workers,
            max_batch_size=MAX_BATCH,
            batch_timeout_s=LITSERVE_TIMEOUT_S,
            policy=policy,
        )
        return serving(command, port=at)

    return Side(f"litserve, {policy}, {workers} worker{'s' * (workers > 1)}", serve, _paint_by_peer)


def static_batch_sides(painter: Path, torch_threads: int) -> list[Side]:
    return [litserve_side(painter, torch_threads, policy, workers) for policy in (EXACT, LONGEST) for workers in (1, 2)]


def painter_config(torch_threads: int) -> triptych.Config:
    """As shipped, with the painter alone, a fixed number of replicas, and room for `MAX_BATCH` requests in a step."""
    config = triptych.only(triptych.shipped_config(), MODEL)
    triptych.model_of(config, MODEL)["denoiser"]["batch"]["max_items"] = MAX_BATCH
    triptych.fixed(config, "text-encoder")
    triptych.fixed(config, "denoiser", torch_threads=torch_threads, max_ongoing_requests=MAX_BATCH, num_replicas=NUM_REPLICAS)
    triptych.fixed(config, "vae")
    return config


async def _paint_by_triptych(client: httpx.AsyncClient, wish: Wish) -> bytes:
    body = {
        "model": MODEL,
        "prompt": wish.prompt,
        "num_inference_steps": wish.steps,
        "guidance_scale": wish.guidance,
        "seed": wish.seed,
    }
    answer = await post(client, "/v1/images/generations", body)
    return base64.b64decode(answer["data"][0]["b64_json"])


async def _paint_by_peer(client: httpx.AsyncClient, wish: Wish) -> bytes:
    answer = await post(client, "/paint", asdict(wish))
    return base64.b64decode(answer["b64_json"])
