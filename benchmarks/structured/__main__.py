"""`python -m benchmarks.structured`: what it costs to hold answers to a schema, beside vLLM's CPU build (about 20 minutes on 2 cores;
`--only http`: that half, and what is known of the other is kept).

A step: SmolLM2's decoding steps of as many rows, all held to a schema and none, in turns in one process; the goal is what a schema may
add. Over HTTP: tokens a second of `triptych serve` and of vLLM with schemas and without, in turns, and no question twice, since who asks
again finds its prompt read; and how much later the first token of an answer comes whose schema was never seen before. No answer ends
before its bound: every schema asks for more. Decides loads and goals.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.llm.checkpoint import save_text_model
from benchmarks.llm.questions import text_questions
from benchmarks.llm.sides import DTYPE, SAMPLED, THREADS, Choosing, Question, Side, SkippedSide, triptych_http, vllm_cpu
from benchmarks.reporting.command import described, results_folder, started, tell
from benchmarks.reporting.report import Goal, Report, rows_of
from benchmarks.structured.steps import SCHEMAS, STEPS, TEXT, many, record, step_share
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.openmp import on_passing_thread
from stages.llm.llm import Llm
from stages.llm.settings import LlmSettings

ROWS = (1, 8, 16)
NUM_TOKENS = 64
MAX_SHARE = 1.1
HTTP, STEP = "http", "a step"
FRESH = 4
"""Schemas that were never seen before, one after another."""

TRIPTYCH, VLLM = "Triptych over HTTP", "vLLM (CPU build)"
SIDES: dict[str, Callable[[Path, int], AbstractContextManager[Side]]] = {TRIPTYCH: triptych_http, VLLM: vllm_cpu}


def main() -> None:
    parser = described(__doc__)
    parser.add_argument("--only", choices=[HTTP])
    given = started(parser)
    quick = given.quick
    known = (
        [dict(row) for row in rows_of("structured", results_folder(quick=quick)) if row["side"] == STEP] if given.only else []
    )
    if given.only and not known:
        parser.error("nothing is known of the other half; run without --only first")
    torch.set_num_threads(THREADS)
    settings: dict[str, Any] = {"dtype": DTYPE, "threads": THREADS, "tokens_out": NUM_TOKENS, "steps_a_turn": STEPS}
    report = Report("structured", settings)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = save_text_model(Path(name))
        if given.only == HTTP:
            report.rows = known
        else:
            _steps(report, folder, turns=1 if quick else 6)
        for side, make in SIDES.items():
            tell(f"over HTTP: {side}")
            try:
                with make(folder, max(ROWS)) as asked:
                    _over_http(report, side, asked, loads=(4,) if quick else ROWS)
            except SkippedSide as reason:
                report.notes.append(f"{side}: skipped: {reason}")
    _judge_steps(report)
    _compare(report)
    report.publish(results_folder(quick=quick))


def _steps(report: Report, folder: Path, *, turns: int) -> None:
    settings = LlmSettings(2 * max(ROWS), 512, 256)
    llm = on_passing_thread(lambda: Llm.load(resolve(Source(folder=str(folder))), LoadOptions(dtype=DTYPE), settings))
    for count in ROWS:
        for name, schema in SCHEMAS.items():
            tell(f"steps of {count} rows: {name}")
            share, step_ms = step_share(llm, count, schema, turns)
            report.add(side=STEP, load=f"{count} rows, {name}", free_ms=round(step_ms, 2), held_over_free=round(share, 3))


def _judge_steps(report: Report) -> None:
    for count in ROWS:
        of_count = [row for row in report.rows if row["side"] == STEP and str(row["load"]).startswith(f"{count} rows")]
        worst = max(float(str(row["held_over_free"])) for row in of_count)
        report.goals.append(Goal(f"a step of {count} rows, held / free, dearest schema", worst, MAX_SHARE, at_most=True))


@dataclass(frozen=True, slots=True)
class HeldQuestion(Question):
    """`schema` None: anything may be answered."""

    schema: Any = None

    def body(self, model: str, num_tokens: int, choosing: Choosing) -> dict[str, object]:
        body = Question.body(self, model, num_tokens, choosing)
        if self.schema is None:
            return body
        asked = {"name": "answer", "schema": self.schema, "strict": True}
        return body | {"response_format": {"type": "json_schema", "json_schema": asked}}


def _over_http(report: Report, name: str, side: Side, *, loads: Sequence[int]) -> None:
    schemas = [many(schema) for schema in SCHEMAS.values()]
    for schema in (None, *schemas):  # each is seen once before it is measured
        side.answer(_questions(1, [schema]), concurrency=1, num_tokens=8, choosing=SAMPLED)
    for load in loads:
        taken: dict[bool, list[float]] = {False: [], True: []}
        for held in (False, True, True, False):  # so that a machine that slows down slows both
            asked = _questions(max(6, load), schemas if held else [None])
            found = side.answer(asked, concurrency=load, num_tokens=NUM_TOKENS, choosing=SAMPLED)
            taken[held].append(1000 * load / found.tokens_per_s)
        ms = {held: statistics.mean(rounds) for held, rounds in taken.items()}
        added = ms[True] - ms[False]
        report.add(
            side=name,
            load=f"{load} at once",
            free_ms=round(ms[False], 2),
            added_ms=round(added, 2),
            held_over_free=round(ms[True] / ms[False], 3),
        )
        tell(f"{name}, {load} at once: {ms}")
    report.add(side=name, load="first token, schema never seen", free_ms=None, added_ms=round(_first_token_ms(side), 1))


def _first_token_ms(side: Side) -> float:
    """By how much later it comes than without a schema."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for number in range(FRESH):
        for held in (True, False):
            fresh = record(**{f"field{number}x{inner}": TEXT | {"maxLength": 20 + inner} for inner in range(20)})
            asked = _questions(1, [many(fresh) if held else None])
            found[held].append(side.answer(asked, concurrency=1, num_tokens=1, choosing=SAMPLED).wall_s)
    return 1000 * (statistics.median(found[True]) - statistics.median(found[False]))


_number = itertools.count(1)


def _questions(count: int, schemas: Sequence[Any]) -> list[Question]:
    """None of them was ever asked before, from its first word on."""
    return [
        HeldQuestion(f"Number {next(_number)}: {one.text}", schema=schemas[index % len(schemas)])
        for index, one in enumerate(text_questions(count))
    ]


def _compare(report: Report) -> None:
    """What a token of a held answer takes more, of both."""
    added = {(row["side"], row["load"]): row.get("added_ms") for row in report.rows}
    for (side, load), ours in added.items():
        theirs = added.get((VLLM, load))
        if side == TRIPTYCH and isinstance(ours, float) and isinstance(theirs, float):
            report.notes.append(f"{load}: a schema adds {ours} ms a token here, {theirs} ms in vLLM")


if __name__ == "__main__":
    main()
