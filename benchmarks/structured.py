"""`python -m benchmarks.structured`: what it costs to hold answers to a schema, beside vLLM's CPU build (about 15 minutes on 2 cores).

A step: SmolLM2's decoding steps of as many rows, all held to a schema and none, in turns in one process; the goal is what a schema may
add. Over HTTP: tokens a second of `triptych serve` and of vLLM with the same questions and schemas, and without; and how much later the
first token of an answer comes whose schema was never seen before. No answer ends before its bound: every schema asks for more. Decides
schemas, loads and goals.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.llm.checkpoint import save_text_model
from benchmarks.llm.questions import text_questions
from benchmarks.llm.rows import started
from benchmarks.llm.sides import DTYPE, SAMPLED, THREADS, Choosing, Question, Side, SkippedSide, triptych_http, vllm_cpu
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.report import Goal, Report
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.device.openmp import on_passing_thread
from stages.llm.llm import Llm
from stages.llm.messages import Constraint, ConstraintKind, Generate, Sampling
from stages.llm.row import LlmRow
from stages.llm.settings import LlmSettings

ROWS = (1, 8, 16)
PROMPT, STEPS = 40, 24
NUM_TOKENS = 64
MAX_SHARE = 1.1
FRESH = 4
"""Schemas that were never seen before, one after another."""

TRIPTYCH, VLLM = "Triptych over HTTP", "vLLM (CPU build)"
SIDES: dict[str, Callable[[Path, int], AbstractContextManager[Side]]] = {TRIPTYCH: triptych_http, VLLM: vllm_cpu}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


_TEXT, _WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 9999}
SCHEMAS: dict[str, Any] = {
    "people": _object(name=_TEXT | {"maxLength": 30}, age=_WHOLE, email=_TEXT | {"maxLength": 40}),
    "orders": _object(
        id=_WHOLE,
        lines={
            "type": "array",
            "items": _object(product=_TEXT | {"maxLength": 30}, count=_WHOLE),
            "minItems": 2,
            "maxItems": 9,
        },
        state={"enum": ["open", "paid", "shipped", "returned"]},
    ),
    "labels": {"enum": [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square", "star")]},
    "codes": _object(
        code=_TEXT | {"pattern": "^[A-Z]{3}-[0-9]{4}$"}, when=_TEXT | {"pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
    ),
    "settings": _object(**{f"option{number}": {"type": ["boolean", "null"]} for number in range(40)}),
}
"""Each is of one of the many things that an answer lists."""


def _many(schema: Any) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 30}


def main() -> None:
    quick = start(__doc__)
    torch.set_num_threads(THREADS)
    settings: dict[str, Any] = {"dtype": DTYPE, "threads": THREADS, "tokens_out": NUM_TOKENS, "steps_a_turn": STEPS}
    report = Report("structured", settings)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = save_text_model(Path(name))
        _steps(report, folder, turns=1 if quick else 6)
        for side, make in SIDES.items():
            tell(f"over HTTP: {side}")
            try:
                with make(folder, max(ROWS)) as asked:
                    _over_http(report, side, asked, loads=(4,) if quick else ROWS)
            except SkippedSide as reason:
                report.notes.append(f"{side}: skipped: {reason}")
    _compare(report)
    report.publish(results_folder(quick=quick))


def _steps(report: Report, folder: Path, *, turns: int) -> None:
    settings = LlmSettings(2 * max(ROWS), 512, 256)
    llm = on_passing_thread(lambda: Llm.load(resolve(Source(folder=str(folder))), LoadOptions(dtype=DTYPE), settings))
    for count in ROWS:
        worst = 0.0
        for name, schema in SCHEMAS.items():
            tell(f"steps of {count} rows: {name}")
            share, step_ms = _step_share(llm, count, schema, turns)
            worst = max(worst, share)
            report.add(side="a step", load=f"{count} rows, {name}", free_ms=round(step_ms, 2), held_over_free=round(share, 3))
        report.goals.append(Goal(f"a step of {count} rows, held / free, dearest schema", worst, MAX_SHARE, at_most=True))


def _step_share(llm: Llm, count: int, schema: Any, turns: int) -> tuple[float, float]:
    """The median step of held rows over that of free ones, and the latter in milliseconds."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(turns):
        sides = {
            held: [started(llm, _work(turn * count + index, schema if held else None)) for index in range(count)]
            for held in (True, False)
        }
        for rows in sides.values():
            llm.step(rows)  # reads the prompts
        for _ in range(STEPS):
            for held, rows in sides.items():
                seconds[held].append(_timed(llm, rows))
        for rows in sides.values():
            for row in rows:
                llm.finish(row)
    medians = {held: statistics.median(found) for held, found in seconds.items()}
    return medians[True] / medians[False], 1000 * medians[False]


def _timed(llm: Llm, rows: Sequence[LlmRow]) -> float:
    began = time.perf_counter()
    stepped = llm.step(rows)
    if any(one.done or one.error for one in stepped):
        raise RuntimeError(f"an answer ended: {stepped}")
    return time.perf_counter() - began


def _work(seed: int, schema: Any) -> Generate:
    source = random.Random(seed)
    tokens = tuple(source.randrange(100, 40_000) for _ in range(PROMPT))
    constraint = None if schema is None else Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(_many(schema)))
    sampling = Sampling(max_tokens=300, temperature=SAMPLED.temperature, top_p=SAMPLED.top_p, seed=seed, constraint=constraint)
    return Generate(tokens, sampling, salt=f"{seed} {schema is None}")


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
    schemas = [_many(schema) for schema in SCHEMAS.values()]
    for schema in (None, *schemas):  # each is seen once before it is measured
        side.answer(_questions(1, [schema]), concurrency=1, num_tokens=8, choosing=SAMPLED)
    for load in loads:
        ms: dict[bool, float] = {}
        for held in (False, True):
            asked = _questions(max(6, 2 * load), schemas if held else [None])
            found = side.answer(asked, concurrency=load, num_tokens=NUM_TOKENS, choosing=SAMPLED)
            ms[held] = 1000 * load / found.tokens_per_s
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
            fresh = _object(**{f"field{number}x{inner}": _TEXT | {"maxLength": 20 + inner} for inner in range(20)})
            asked = _questions(1, [_many(fresh) if held else None])
            found[held].append(side.answer(asked, concurrency=1, num_tokens=1, choosing=SAMPLED).wall_s)
    return 1000 * (statistics.median(found[True]) - statistics.median(found[False]))


def _questions(count: int, schemas: Sequence[Any]) -> list[Question]:
    return [HeldQuestion(one.text, schema=schemas[index % len(schemas)]) for index, one in enumerate(text_questions(count))]


def _compare(report: Report) -> None:
    """What a token of a held answer takes more, of both."""
    added = {(row["side"], row["load"]): row.get("added_ms") for row in report.rows}
    for (side, load), ours in added.items():
        theirs = added.get((VLLM, load))
        if side == TRIPTYCH and isinstance(ours, float) and isinstance(theirs, float):
            report.notes.append(f"{load}: a schema adds {ours} ms a token here, {theirs} ms in vLLM")


if __name__ == "__main__":
    main()
