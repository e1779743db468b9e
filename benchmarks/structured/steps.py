"""Decoding steps of rows that are all held to a schema, and of as many that are not, in turns in one process. Decides the schemas; knows no
server."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.llm.rows import started
from stages.llm.llm import Llm
from stages.llm.messages import Constraint, ConstraintKind, Generate, Sampling
from stages.llm.row import LlmRow

PROMPT, STEPS = 40, 24


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


TEXT, WHOLE = {"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 9999}
SCHEMAS: dict[str, Any] = {
    "people": record(name=TEXT | {"maxLength": 30}, age=WHOLE, email=TEXT | {"maxLength": 40}),
    "orders": record(
        id=WHOLE,
        lines={
            "type": "array",
            "items": record(product=TEXT | {"maxLength": 30}, count=WHOLE),
            "minItems": 2,
            "maxItems": 9,
        },
        state={"enum": ["open", "paid", "shipped", "returned"]},
    ),
    "labels": {"enum": [f"{colour} {shape}" for colour in ("red", "green", "blue") for shape in ("circle", "square", "star")]},
    "codes": record(code=TEXT | {"pattern": "^[A-Z]{3}-[0-9]{4}$"}, when=TEXT | {"pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}),
    "settings": record(**{f"option{number}": {"type": ["boolean", "null"]} for number in range(40)}),
}
"""Each is of one of the many things that an answer lists."""


def many(schema: Any) -> dict[str, Any]:
    return {"type": "array", "items": schema, "minItems": 30}


def step_share(llm: Llm, count: int, schema: Any, turns: int) -> tuple[float, float]:
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
    tokens = tuple(source.randrange(100, 1_900) for _ in range(PROMPT))
    constraint = None if schema is None else Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(many(schema)))
    sampling = Sampling(max_tokens=300, temperature=1.0, top_p=0.9, seed=seed, constraint=constraint)
    return Generate(tokens, sampling, salt=f"{seed} {schema is None}")
