"""Where a request's time goes beside the models, through `triptych serve` as shipped: from the client's clock and the receipt.

A receipt says for each stage how long the request waited and ran there, and when that was known where the request lives; what
lies between is the hop (and what the pipeline does before it). Stages that were asked for at once count once, as the slowest.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.encoder.vit_checkpoint import image
from benchmarks.loads.http_client import post
from benchmarks.loads.load import closed_loop
from benchmarks.loads.wishes import GUIDANCE, wishes

if TYPE_CHECKING:
    from benchmarks.peers.ray_noop import RayFloor

SEE, PAINT = "triptych-see", "triptych-paint"
NUM_TOKENS, NUM_STEPS = 8, 10
IMAGE_SIDE = 64


@dataclass(frozen=True, slots=True)
class Visit:
    """One stage of one request, as its receipt has it. Seconds."""

    stage: str
    queue_s: float
    run_s: float
    device_s: float
    ended_s: float


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Of one request's wall time, what the models didn't take. Seconds. `parts` adds up to `beside_s`, to the receipt's
    precision."""

    wall_s: float
    beside_s: float
    beside_device_s: float
    parts: Mapping[str, float]


def broken_down(wall_s: float, receipt: Mapping[str, Any]) -> Breakdown:
    """The whole answer took `wall_s` at the client."""
    visits = _slowest([_visit(entry) for entry in receipt["stages"]])
    total_s = float(receipt["total_s"])
    parts, before_s = {}, 0.0
    for visit in visits:
        parts[f"hop to {visit.stage}"] = visit.ended_s - before_s - visit.queue_s - visit.run_s
        parts[f"waiting for {visit.stage}"] = visit.queue_s
        before_s = visit.ended_s
    parts["answer"] = total_s - before_s
    parts["HTTP"] = wall_s - total_s
    return Breakdown(
        wall_s,
        wall_s - sum(visit.run_s for visit in visits),
        wall_s - sum(visit.device_s for visit in visits),
        parts,
    )


def _visit(entry: Mapping[str, Any]) -> Visit:
    stage = str(entry["stage"]).split(".", 1)[-1]
    return Visit(stage, *(float(entry[name]) for name in ("queue_s", "run_s", "device_s", "ended_s")))


def _slowest(visits: Sequence[Visit]) -> list[Visit]:
    """One of each stage, in the order in which they ended: of several that were asked for at once, the one that ran longest,
    with the end of the last."""
    by_stage: dict[str, list[Visit]] = {}
    for visit in visits:
        by_stage.setdefault(visit.stage, []).append(visit)
    merged = []
    for stage, same in by_stage.items():
        longest = max(same, key=lambda visit: visit.run_s)
        ended_s = max(visit.ended_s for visit in same)
        merged.append(Visit(stage, longest.queue_s, longest.run_s, longest.device_s, ended_s))
    return sorted(merged, key=lambda visit: visit.ended_s)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: where it goes, and the body of each. `num_calls` and `num_streams`: the hops between deployments that it
    makes one after the other."""

    name: str
    path: str
    body: Callable[[int], dict[str, object]]
    num_calls: int
    num_streams: int

    def floor_s(self, floor: RayFloor) -> float:
        """What Ray alone takes for such a request."""
        return floor.http_s + self.num_calls * floor.call_s + self.num_streams * floor.stream_s


async def measured(client: httpx.AsyncClient, kind: Kind, *, count: int, num_warming_up: int) -> list[Breakdown]:
    """One request at a time, each another one."""

    async def send(index: int) -> Breakdown:
        began = time.monotonic()
        answer = await post(client, kind.path, kind.body(index))
        return broken_down(time.monotonic() - began, answer["triptych"])

    load = await closed_loop(send, num_warming_up + count, concurrency=1)
    return [outcome.value for outcome in load.outcomes[num_warming_up:]]


def median_parts_s(found: Sequence[Breakdown]) -> dict[str, float]:
    names = dict.fromkeys(name for one in found for name in one.parts)
    return {name: statistics.median(one.parts.get(name, 0.0) for one in found) for name in names}


def kinds(count: int) -> list[Kind]:
    """`count`: how many of each may be asked for."""
    sentences = [wish.prompt for wish in wishes(count, seed=11)]

    def text(index: int) -> dict[str, object]:
        return _chat([{"type": "text", "text": f"Which number follows {index + 7}?"}])

    def seen(index: int) -> dict[str, object]:
        url = "data:image/png;base64," + base64.b64encode(image(index, IMAGE_SIDE)).decode()
        return _chat([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}])

    def painted(index: int) -> dict[str, object]:
        return {
            "model": PAINT,
            "prompt": sentences[index],
            "num_inference_steps": NUM_STEPS,
            "guidance_scale": GUIDANCE,
            "seed": index,
        }

    chat, images = "/v1/chat/completions", "/v1/images/generations"
    return [
        Kind("chat", chat, text, num_calls=0, num_streams=1),
        Kind("chat with an image", chat, seen, num_calls=1, num_streams=1),
        Kind("image", images, painted, num_calls=2, num_streams=1),
    ]


def _chat(content: list[object]) -> dict[str, object]:
    messages = [{"role": "user", "content": content}]
    return {"model": SEE, "messages": messages, "max_tokens": NUM_TOKENS, "temperature": 0}
