"""What it costs on the device to hold answers to a schema: decoding steps of a language model of real size and vocabulary, all rows held
and none, in turns. Decides how many rows; the schemas are those of `benchmarks.structured`."""

from __future__ import annotations

from benchmarks.gpu.checkpoints import language_model
from benchmarks.gpu.part import Part
from benchmarks.gpu.right_llm import load
from benchmarks.structured.steps import SCHEMAS, step_share
from stages.llm.settings import LlmSettings

ROWS = (1, 16, 64)


def run(part: Part) -> None:
    counts = ROWS if not part.quick else (1, 2)
    llm = load(language_model(part), part.device, "bfloat16", LlmSettings(2 * max(counts), 512, 512))
    for count in counts:
        for name, schema in SCHEMAS.items():
            with part.trying(f"{count} rows, {name}"):
                share, free_ms = step_share(llm, count, schema, part.pick(2, 1))
                part.add(
                    what="held to a schema", schema=name, rows=count, free_ms=round(free_ms, 3), held_over_free=round(share, 3)
                )
