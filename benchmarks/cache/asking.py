"""A chat that is asked, and what its answer tells: how long its first token took, how much of its prompt was computed, and where the
rest came from.

Knows the chat route and the receipt, of Triptych and (without one) of its peers.
"""

from __future__ import annotations

import time
from typing import Any

import httpx

from benchmarks.cache.prompts import CHAT, Body
from benchmarks.cache.samples import Asked
from benchmarks.loads.http_client import post

LLM, ENCODER = "llm", "vision_encoder"


async def ask(client: httpx.AsyncClient, body: Body) -> Asked:
    """Raises `RuntimeError` for an answer that is none."""
    began = time.monotonic()
    answer = await post(client, CHAT, body)
    seconds = time.monotonic() - began
    usage, llm = answer["usage"], _visit(answer, LLM)
    return Asked(
        seconds,
        usage["prompt_tokens"],
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        usage["completion_tokens"],
        str(llm.get("cache") or ""),
        str(_visit(answer, ENCODER).get("cache") or ""),
        str(llm.get("replica") or ""),
        int(llm.get("bytes_moved") or 0),
        str(answer["choices"][0]["message"]["content"]),
    )


def _visit(answer: dict[str, Any], part: str) -> dict[str, Any]:
    visits = (answer.get("triptych") or {}).get("stages", [])
    return next((visit for visit in visits if visit["stage"].endswith(f".{part}")), {})
