"""`python -m benchmarks.decode_step`: what makes a decoding step short on a CPU (about 4 minutes, most of it compiling).

The same steps of SmolLM2, in the dtype that this CPU computes best: with torch's own linear layers, with `stages.device.packed_linear`,
and compiled (`stages.llm.model.decoding.compiled`), in turns, so that all sides meet the same machine; what a step takes where another
thread has computed before (`stages.device.openmp`); and where the time of a step goes. No goal: it is why these are there, and what is
left to gain.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.llm.checkpoint import save_text_model
from benchmarks.llm.rows import started
from benchmarks.reporting.command import results_folder, start
from benchmarks.reporting.report import Report
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.dtypes import choose_dtype
from stages.device.openmp import on_passing_thread
from stages.device.packed_linear import pack_linears
from stages.llm.llm import Llm
from stages.llm.messages import Generate, Sampling
from stages.llm.model.loading import LoadedLanguageModel
from stages.llm.row import LlmRow
from stages.llm.settings import LlmSettings

THREADS = 2
DTYPE = choose_dtype("cpu", None, packed=True)
ROWS = (1, 4, 16)
PLAIN, PACKED, COMPILED = "torch's Linear", "packed", "compiled"
PROMPT = 40
STEPS = 8


def main() -> None:
    quick = start(__doc__)
    torch.set_num_threads(THREADS)
    report = Report("decode_step", {"dtype": DTYPE, "threads": THREADS, "prompt_tokens": PROMPT, "steps_a_turn": STEPS})
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = save_text_model(Path(name))
        began = time.perf_counter()
        sides = {PLAIN: _load(folder, packed=False), PACKED: _load(folder, packed=True), COMPILED: _compiled(folder)}
        report.notes.append(f"the sides were ready, the compiled one included, after {time.perf_counter() - began:.0f} s")
        turns = 2 if quick else 8
        for count in ROWS:
            seconds = _take_turns(sides, count, turns=turns)
            for side, found in seconds.items():
                _add(report, side, count, found, seconds[PLAIN])
        packed = {PACKED: sides[PACKED]}
        beside = on_passing_thread(lambda: _take_turns(packed, max(ROWS), turns=turns))[PACKED]
        _add(report, f"{PACKED}, on a second computing thread", max(ROWS), beside, seconds[PLAIN])
        report.notes.append(_where_time_goes(sides[PACKED], max(ROWS)))
    report.publish(results_folder(quick=quick))


def _add(report: Report, side: str, count: int, found: list[float], plain: list[float]) -> None:
    median = statistics.median(found)
    report.add(side=side, rows=count, step_ms=round(1000 * median, 1), share=round(median / statistics.median(plain), 2))


def _compiled(folder: Path) -> Llm:
    options, settings = LoadOptions(dtype=DTYPE, compile=True), LlmSettings(max(ROWS), 512, 256)
    return Llm.load(resolve(Source(folder=str(folder))), options, settings)


def _load(folder: Path, *, packed: bool) -> Llm:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, DTYPE)).eval().requires_grad_(False)
    if packed:
        pack_linears(model)
    loaded = LoadedLanguageModel(model, AutoTokenizer.from_pretrained(folder), frozenset())
    return Llm(loaded, LlmSettings(max(ROWS), 512, 256), "cpu")


def _take_turns(sides: dict[str, Llm], count: int, *, turns: int) -> dict[str, list[float]]:
    """Seconds a step, for each side and turn."""
    rows = {name: [started(llm, _work(index)) for index in range(count)] for name, llm in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, llm in sides.items():
            seconds[name].append(_steps(llm, rows[name]))
    for name, llm in sides.items():
        for row in rows[name]:
            llm.finish(row)
    return seconds


def _steps(llm: Llm, rows: list[LlmRow]) -> float:
    llm.step(rows)  # the first turn's reads the prompts
    began = time.perf_counter()
    for _ in range(STEPS):
        llm.step(rows)
    return (time.perf_counter() - began) / STEPS


def _where_time_goes(llm: Llm, count: int) -> str:
    """Shares of a packed step, by torch's profiler: products, attention, all other operators, and Python between them."""
    rows = [started(llm, _work(1_000 + index)) for index in range(count)]
    llm.step(rows)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        began = time.perf_counter()
        for _ in range(STEPS):
            llm.step(rows)
        seconds = time.perf_counter() - began
    for row in rows:
        llm.finish(row)
    parts = {"linear layers": 0.0, "attention": 0.0, "other operators": 0.0}
    for event in profile.key_averages():
        kind = "linear layers" if "linear" in event.key or "mkldnn" in event.key else "other operators"
        kind = "attention" if "scaled_dot_product" in event.key or "flash" in event.key else kind
        parts[kind] += event.self_cpu_time_total / 1e6 / seconds
    parts["Python and dispatch"] = max(0.0, 1 - sum(parts.values()))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    return f"of a packed step of {count} rows, under torch's profiler: {shares}"


def _work(seed: int) -> Generate:
    source = random.Random(seed)
    tokens = tuple(source.randrange(100, 40_000) for _ in range(PROMPT))
    return Generate(tokens, Sampling(max_tokens=300, temperature=0.0), salt=str(seed))


if __name__ == "__main__":
    main()
