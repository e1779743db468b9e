"""What choosing tokens costs on the device, of a decoding step of as many rows, and how often a step waits for the device.

Cost: a step with each mix, and the same step's forward pass by itself; what is between them is choosing, with all that it keeps the
device or the interpreter from. Decides mixes (those of `benchmarks/sampling/mixes.py`) and rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checkpoints import language_model
from benchmarks.gpu.part import Part, median_seconds
from benchmarks.gpu.right_llm import load
from benchmarks.llm.rows import started
from benchmarks.sampling.mixes import MIXED, samplers_of
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.row import LlmRow
from stages.llm.sampling.sampling import RowSampler, decide, sample
from stages.llm.settings import LlmSettings

ROWS = (1, 16, 64)
VOCABULARIES = (49_152, 151_936)
SPREAD = 3.0  # of the logits: some hundred tokens hold nine tenths
PROMPT = 200


def run(part: Part) -> None:
    rows = ROWS if not part.quick else (1, 4)
    with part.trying("waiting"):
        _waiting(part, max(rows))
    with part.trying("choosing by itself"):
        _by_itself(part, rows)
    with part.trying("choosing in a step"):
        _in_a_step(part, rows)


def _logits(part: Part, rows: int, vocabulary: int) -> Tensor:
    draw = torch.Generator(part.device).manual_seed(0)
    found = torch.randn(rows, vocabulary, device=part.device, generator=draw, dtype=torch.float32)
    return (SPREAD * found).to(torch.bfloat16)


def _waiting(part: Part, rows: int) -> None:
    """Under torch's own watch nothing of `decide` may wait for the device; `sample` then reads back once."""
    logits = _logits(part, rows, VOCABULARIES[0])
    for mix, samplers in samplers_of(rows).items():
        decide(logits, samplers)
        waits = ""
        if part.device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
            try:
                decide(logits, samplers)
            except RuntimeError as error:
                waits = str(error)[:200]
            finally:
                torch.cuda.set_sync_debug_mode("default")
        part.add(what="waits", mix=mix, ok=not waits, error=waits)


def _by_itself(part: Part, counts: Sequence[int]) -> None:
    for vocabulary in VOCABULARIES:
        for count in counts:
            logits = _logits(part, count, vocabulary)
            for mix, samplers in samplers_of(count).items():
                seconds = median_seconds(part.device, lambda s=samplers, x=logits: sample(x, s), part.pick(15, 2))  # type: ignore[misc]
                part.add(what="choosing", vocabulary=vocabulary, rows=count, mix=mix, ms=_ms(seconds))


def _in_a_step(part: Part, counts: Sequence[int]) -> None:
    llm = load(language_model(part), part.device, "bfloat16", LlmSettings(max(counts), 1024, 2048))
    for count in counts:
        rows = _answering(llm, count)
        for mix, samplers in samplers_of(count).items():
            part.add(what="step", rows=count, mix=mix, **_measured(part, llm, rows, samplers), replayed=_replays(llm))
        if part.device == "cuda":
            _have(rows, samplers_of(count)[MIXED])
            part.add(what="copies of a step", rows=count, **_copies(llm, rows))
        for row in rows:
            llm.finish(row)


def _measured(part: Part, llm: Llm, rows: Sequence[LlmRow], samplers: Sequence[RowSampler]) -> dict[str, float]:
    """`forward_ms`: of the pass alone; `with_choice_ms`: with choosing; `ms`: of the whole step, with its texts. `share`: choosing's."""
    members, times = sorted(rows, key=lambda row: row.slot), part.pick(15, 2)
    chunks = [row.next_chunk() for row in members]

    def forward() -> Tensor:
        with torch.inference_mode():
            return llm._forward.run(members, chunks)

    def chosen() -> None:
        with torch.inference_mode():
            sample(forward(), samplers)

    _have(rows, samplers)
    whole = median_seconds(part.device, lambda: llm.step(rows), times)
    alone, both = median_seconds(part.device, forward, times), median_seconds(part.device, chosen, times)
    share = round(max(0.0, both - alone) / whole, 3)
    return {"ms": _ms(whole), "forward_ms": _ms(alone), "with_choice_ms": _ms(both), "share": share}


def _replays(llm: Llm) -> bool:
    return llm._forward._recorded is not None


def _answering(llm: Llm, count: int) -> list[LlmRow]:
    draw = random.Random(count)
    works = [Generate(tuple(draw.choices(range(1000), k=PROMPT)), Sampling(700, temperature=0.0)) for _ in range(count)]
    rows = [started(llm, work) for work in works]
    while any(row.num_waiting for row in rows):
        llm.step(rows)
    return rows


def _have(rows: Sequence[LlmRow], samplers: Sequence[RowSampler]) -> None:
    for row, sampler in zip(rows, samplers, strict=True):
        row.sampler = sampler


def _copies(llm: Llm, rows: Sequence[LlmRow]) -> dict[str, Any]:
    """Of one step, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    llm.step(rows)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(4):
            llm.step(rows)
    counts = {event.key: event.count / 4 for event in profiled.key_averages()}
    return {
        "to_host": sum(count for name, count in counts.items() if "DtoH" in name),
        "to_device": sum(count for name, count in counts.items() if "HtoD" in name),
        "from_pageable": sum(count for name, count in counts.items() if "HtoD" in name and "Pageable" in name),
        "waits": counts.get("cudaStreamSynchronize", 0.0),
        "kernels": sum(event.count for event in profiled.key_averages() if event.device_type.name == "CUDA") / 4,
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)
