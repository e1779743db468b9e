"""The round trip through a running server: paint a held-out sentence, show the picture back, compare what is said.

Decides the two requests and how many run at once. Knows the server only by its OpenAI API.
"""

from __future__ import annotations

import asyncio
import base64
import io
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

from demo.measure import Painting, Score, held_out_scenes
from demo.world import DESCRIBE, SIZE, Facts

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Trip:
    """A painting and what the server then said it shows."""

    painting: Painting
    said: str


async def served_round_trip(url: str, count: int, concurrency: int) -> list[Score]:
    """The share of sentences that come back word for word, and of paintings that the detector judges right.

    Raises httpx.HTTPStatusError for an answer that is no success.
    """
    turnstile = asyncio.Semaphore(concurrency)
    facts = [scene.facts for scene in held_out_scenes(count, 51)]
    async with httpx.AsyncClient(base_url=url.rstrip("/").removesuffix("/v1"), timeout=_TIMEOUT_S) as client:
        models = await _models(client)
        trips = await asyncio.gather(*(_trip(client, models, turnstile, fact, seed) for seed, fact in enumerate(facts)))
    said = sum(trip.said == trip.painting.sentence for trip in trips)
    painted = sum(trip.painting.right for trip in trips)
    return [Score("round trip, served", said, count), Score("  judged by the detector", painted, count)]


async def _models(client: httpx.AsyncClient) -> dict[str, str]:
    """The first model of each pipeline, as `/v1/models` says; empty where it doesn't say."""
    found = await _json(client, "GET", "/v1/models", None)
    models: dict[str, str] = {}
    for entry in found["data"]:
        pipeline = (entry.get("triptych") or entry).get("pipeline")
        if pipeline:
            models.setdefault(str(pipeline), str(entry["id"]))
    return models


async def _trip(
    client: httpx.AsyncClient, models: dict[str, str], turnstile: asyncio.Semaphore, facts: Facts, seed: int
) -> Trip:
    sentence = facts.canonical()
    ask = {"prompt": sentence, "size": f"{SIZE}x{SIZE}", "response_format": "b64_json", "seed": seed}
    ask |= {"model": models["text_to_image"]} if "text_to_image" in models else {}
    async with turnstile:
        encoded = str((await _json(client, "POST", "/v1/images/generations", ask))["data"][0]["b64_json"])
        address = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}
        content = [address, {"type": "text", "text": DESCRIBE}]
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 40}
        chat |= {"model": models["image_text"]} if "image_text" in models else {}
        answer = await _json(client, "POST", "/v1/chat/completions", chat)
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    return Trip(Painting(sentence, facts, picture), str(answer["choices"][0]["message"]["content"]).strip())


async def _json(client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
    answer = await client.request(method, path, json=body)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
