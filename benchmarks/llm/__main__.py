"""`python -m benchmarks.llm`: tokens a second of Triptych's LLM stage beside what a user would run instead.

Every side loads the same checkpoint in the dtype that this CPU computes best, on the same number of threads, is asked the same
prompts, greedily and (at fewer loads) at temperature 1 with top_p 0.9, and computes the same number of tokens for each (the
checkpoint's end token never comes).
Text: SmolLM2. Image-text: the demo's vision-language model as a LLaVA checkpoint, every request with an image of its own.
Decides sides, loads and goals; how a side is run is in `benchmarks/llm/sides.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from benchmarks.llm.checkpoint import save_llava, save_text_model
from benchmarks.llm.questions import NUM_TOKENS, image_questions, text_questions
from benchmarks.llm.sides import (
    DTYPE,
    GREEDY,
    SAMPLED,
    Choosing,
    Measured,
    Question,
    Side,
    SkippedSide,
    in_process,
    one_by_one,
    transformers_serve,
    triptych_http,
    vllm_cpu,
)
from benchmarks.reporting.command import results_folder
from benchmarks.reporting.report import Goal, Report
from stages.device.openmp import on_passing_thread

THREADS = 2

WHY_NOT_VLLM = (
    "decode_step.json says where a step's time goes: vLLM fuses what here are operators and Python between products; "
    "`compile: true` fuses them here too"
)

VLLM, ENGINE, COMPILED, HTTP = "vLLM (CPU build)", "Triptych engine", "Triptych engine, compiled", "Triptych over HTTP"

SAMPLED_LOADS = (1, 16)
"""What drawing costs shows at few loads."""

Speeds = dict[tuple[str, Choosing, int], float]
Make = Callable[[Path, int], AbstractContextManager[Side]]
TEXT_SIDES: dict[str, Make] = {
    "one by one (generate)": one_by_one,
    "transformers serve": transformers_serve,
    VLLM: vllm_cpu,
    ENGINE: in_process,
    COMPILED: partial(in_process, compiled=True),
    HTTP: triptych_http,
}
IMAGE_SIDES: dict[str, Make] = {"transformers serve": transformers_serve, HTTP: triptych_http}


def main() -> None:
    """Parses the command line, measures, publishes."""
    parser = argparse.ArgumentParser(prog="benchmarks.llm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small load for each side")
    parser.add_argument("--only", choices=("text", "image"), help="one of the two tables")
    options = parser.parse_args()
    loads = (4,) if options.quick else (1, 4, 16, 64)
    image_loads = (4,) if options.quick else (1, 4, 16)
    results = results_folder(quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        if options.only != "image":
            _text(Path(folder) / "text", loads).publish(results)
        if options.only != "text":
            _image_text(Path(folder) / "llava", image_loads).publish(results)


def _text(folder: Path, loads: tuple[int, ...]) -> Report:
    report = _report("llm")
    on_passing_thread(lambda: save_text_model(folder))
    speeds = _measure(report, TEXT_SIDES, folder, loads, text_questions)
    at = 16 if 16 in loads else loads[-1]
    for choosing in (GREEDY, SAMPLED):
        _add_goals(report, speeds, choosing, at)
    greedy, sampled = speeds.get((ENGINE, GREEDY, at)), speeds.get((ENGINE, SAMPLED, at))
    if greedy and sampled:
        report.goals.append(Goal(f"engine at {at}: {SAMPLED.name} / greedy", sampled / greedy, 0.95))
    return report


def _add_goals(report: Report, speeds: Speeds, choosing: Choosing, at: int) -> None:
    def speed(side: str, concurrency: int = at) -> float | None:
        return speeds.get((side, choosing, concurrency))

    where = f"at {at}, {choosing.name}"
    engine, http, vllm = speed(ENGINE), speed(HTTP), speed(VLLM)
    for name, side in (("engine", ENGINE), ("engine, compiled", COMPILED)):
        if (ours := speed(side)) and vllm:
            report.goals.append(Goal(f"{name} / vLLM {where}", ours / vllm, 1.0, why=WHY_NOT_VLLM if ours < vllm else ""))
    if engine and (alone := speed("one by one (generate)", 1)):
        report.goals.append(Goal(f"engine / one by one {where}", engine / alone, 4.0))
    if engine and http:
        why = _why_slower(report, choosing, at) if http < 0.9 * engine else ""
        report.goals.append(Goal(f"HTTP / engine {where}", http / engine, 0.9, why=why))


def _why_slower(report: Report, choosing: Choosing, at: int) -> str:
    found = (HTTP, at, choosing.name)
    shares = [row["model_share"] for row in report.rows if (row["side"], row["concurrency"], row["choosing"]) == found]
    share = max((share for share in shares if isinstance(share, float)), default=0.0)
    return (
        f"{share:.0%} of an answer's time it ran in the LLM stage: the same steps take longer in a replica, beside Ray's "
        "processes on the same two cores"
    )


def _image_text(folder: Path, loads: tuple[int, ...]) -> Report:
    report = _report("image_text")
    on_passing_thread(lambda: save_llava(folder))
    speeds = _measure(report, IMAGE_SIDES, folder, loads, image_questions)
    at = loads[-1]
    for choosing in (GREEDY, SAMPLED):
        ours, theirs = speeds.get((HTTP, choosing, at)), speeds.get(("transformers serve", choosing, at))
        if ours and theirs:
            report.goals.append(Goal(f"HTTP / transformers serve at {at}, {choosing.name}", ours / theirs, 4.0))
    return report


def _report(name: str) -> Report:
    return Report(name, {"dtype": DTYPE, "threads": THREADS, "tokens_out": NUM_TOKENS})


def _measure(
    report: Report, sides: dict[str, Make], folder: Path, loads: tuple[int, ...], ask: Callable[[int], list[Question]]
) -> Speeds:
    """Adds a row for every side, way of choosing and load; tokens a second of each."""
    speeds: Speeds = {}
    for name, make in sides.items():
        left = [GREEDY, SAMPLED]
        try:
            while left:
                with make(folder, max(loads)) as side:
                    ways, left = (left, []) if side.switches else (left[:1], left[1:])
                    for choosing in ways:
                        speeds |= _answered(report, name, side, choosing, loads, ask)
        except SkippedSide as reason:
            report.notes.append(f"{name}: skipped: {reason}")
    return speeds


def _answered(
    report: Report,
    name: str,
    side: Side,
    choosing: Choosing,
    loads: tuple[int, ...],
    ask: Callable[[int], list[Question]],
) -> Speeds:
    speeds: Speeds = {}
    side.answer(ask(2), concurrency=2, num_tokens=8, choosing=choosing)  # warm
    if choosing is SAMPLED and len(loads) > 1:
        loads = tuple(load for load in loads if load in SAMPLED_LOADS)
    for concurrency in loads if side.takes_many else (1,):
        asked = ask(_count(concurrency))
        measured = side.answer(asked, concurrency=concurrency, num_tokens=NUM_TOKENS, choosing=choosing)
        speeds[name, choosing, concurrency] = measured.tokens_per_s
        _add(report, name, concurrency, choosing, measured)
    return speeds


def _count(concurrency: int) -> int:
    return max(6, 2 * concurrency)


def _add(report: Report, name: str, concurrency: int, choosing: Choosing, measured: Measured) -> None:
    report.add(
        side=name,
        concurrency=concurrency,
        choosing=choosing.name,
        requests=measured.num_requests,
        tokens=measured.num_tokens,
        seconds=round(measured.wall_s, 2),
        tokens_per_s=round(measured.tokens_per_s, 1),
        p50_s=round(measured.p50_s, 3),
        p99_s=round(measured.p99_s, 3),
        model_share=None if measured.model_share is None else round(measured.model_share, 2),
    )
    print(f"{name} at {concurrency}, {choosing.name}: {measured.tokens_per_s:.0f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
