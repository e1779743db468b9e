"""`python -m benchmarks.cache`: what it saves to remember: the time to a first token by where its prompt's beginning lies, and the chats
a second of two replicas by how much comes again (about 15 minutes on 2 cores; on a quiet machine. `--quick`: about 2).

1. A long system prompt and a short one, cold, then in a slot, in memory, in Redis, after kill -9 of the replica, on another replica;
   an image likewise. The same for vLLM's CPU build with its prefix cache, before and after a restart.
2. Two replicas of the LLM and of the image encoder: system prompts and images of which none, half, and four fifths of the requests are
   about one that was there before (by Zipf's law), beside the same load where nothing is remembered, slots included.

Decides how much of each. `benchmarks/remembering/` has how it is done, and what is a goal.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command import results_folder, start, tell
from benchmarks.llm_checkpoint import save_text_model
from benchmarks.llm_sides import DTYPE, SkippedSide
from benchmarks.remembering import findings, first_token, throughput
from benchmarks.remembering.first_token import QUESTION_TOKENS
from benchmarks.remembering.plot import svg
from benchmarks.remembering.redis_rate import bytes_per_s
from benchmarks.remembering.samples import FORGETS, REMEMBERS, SHORT, VLLM, Sample
from benchmarks.remembering.sides import served, two_of_each
from benchmarks.remembering.throughput import TOKENS_OUT
from benchmarks.report import Report
from stages.device.openmp import on_passing_thread

NUM_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    first_token: first_token.Plan
    throughput: throughput.Plan
    with_vllm: bool = True


FULL = Plan(
    first_token.Plan(rounds=4, elsewhere_rounds=3),
    throughput.Plan(turns=2, requests=10, images=16, new_requests=16, new_turns=4),
)
QUICK = Plan(
    first_token.Plan(rounds=2, elsewhere_rounds=1, long_tokens=400),
    throughput.Plan(
        turns=1, requests=5, images=5, new_requests=2, new_turns=1, reuses=(0.0, findings.HIGH_REUSE), prompt_tokens=200
    ),
    with_vllm=False,
)


def main() -> None:
    quick = start(__doc__)
    plan = QUICK if quick else FULL
    tell("how fast Redis is")
    rate = bytes_per_s()
    report = Report(
        "cache",
        {
            "dtype": DTYPE,
            "long_tokens": plan.first_token.long_tokens,
            "short_tokens": SHORT,
            "question_tokens": QUESTION_TOKENS,
            "tokens_out_of_loads": TOKENS_OUT,
            "prompt_tokens_of_loads": plan.throughput.prompt_tokens,
            "requests_at_once": throughput.CONCURRENCY,
            "redis_megabytes_per_s": round(rate / 1e6),
        },
    )
    samples = first_token.measure(plan.first_token)
    if plan.with_vllm:
        samples += _of_vllm(report, plan.first_token)
    tell("two servers of two replicas each")
    with (
        served(two_of_each(remembers=True, num_slots=NUM_SLOTS)) as on,
        served(two_of_each(remembers=False, num_slots=NUM_SLOTS)) as off,
    ):
        samples += first_token.measure_elsewhere(on.url, plan.first_token)
        runs = throughput.measure({REMEMBERS: on.url, FORGETS: off.url}, plan.throughput)
    findings.add_first_tokens(report, samples)
    findings.add_runs(report, runs)
    findings.add_first_token_goals(report, samples, plan.first_token.long_tokens, rate)
    findings.add_throughput_goals(report, runs)
    written = report.publish(results_folder(quick=quick))
    written.with_suffix(".svg").write_text(svg(findings.panels(samples, runs, plan.first_token.long_tokens)))


def _of_vllm(report: Report, plan: first_token.Plan) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name) / "text"
        on_passing_thread(lambda: save_text_model(folder))
        try:
            return first_token.measure_vllm(folder, plan)
        except SkippedSide as reason:
            report.notes.append(f"{VLLM}: skipped: {reason}")
            return []


if __name__ == "__main__":
    main()
