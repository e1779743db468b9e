"""`python -m benchmarks.cache`: what it saves to remember: the time to a first token by where its prompt's beginning lies, and the chats
a second of two replicas by how much comes again (half an hour on 2 cores, a third of it vLLM; on a quiet machine. `--quick`: about 3).

1. A long system prompt and a short one, cold, then in a slot, in memory, in Redis, after kill -9 of the replica, on another replica;
   an image likewise. The same for vLLM's CPU build with its prefix cache, before and after a restart.
2. Two replicas of the LLM and of the image encoder: system prompts and images of which none, half, and four fifths of the requests are
   about one that was there before (by Zipf's law), beside the same load where nothing is remembered, slots included.

Results are written after every part. Decides how much of each; the modules beside it have how it is done, and what is a goal.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.cache import findings, first_token, throughput
from benchmarks.cache.first_token import QUESTION_TOKENS
from benchmarks.cache.redis_rate import bytes_per_s
from benchmarks.cache.samples import FORGETS, REMEMBERS, SHORT, VLLM, Run, Sample
from benchmarks.cache.sides import served, two_of_each
from benchmarks.cache.throughput import TOKENS_OUT
from benchmarks.llm.checkpoint import save_text_model
from benchmarks.llm.sides import DTYPE, SkippedSide
from benchmarks.reporting.command import results_folder, start, tell
from benchmarks.reporting.plot import svg
from benchmarks.reporting.report import Report
from stages.device.openmp import on_passing_thread

NUM_SLOTS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    first_token: first_token.Plan
    throughput: throughput.Plan
    with_vllm: bool = True


FULL = Plan(
    first_token.Plan(rounds=12, elsewhere_rounds=3),
    throughput.Plan(turns=3, requests=20, images=16, new_requests=24, new_turns=8),
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
    found = Found(rate)
    found.samples += first_token.measure(plan.first_token)
    _publish(found, plan, quick)
    tell("two servers of two replicas each")
    with (
        served(two_of_each(remembers=True, num_slots=NUM_SLOTS)) as on,
        served(two_of_each(remembers=False, num_slots=NUM_SLOTS)) as off,
    ):
        for run in throughput.measure({REMEMBERS: on.url, FORGETS: off.url}, plan.throughput):
            found.runs.append(run)
            _publish(found, plan, quick)
        found.samples += first_token.measure_elsewhere(on, plan.first_token)
        _publish(found, plan, quick)
    if plan.with_vllm:
        found.samples += _of_vllm(found.notes, plan.first_token)
        _publish(found, plan, quick)
    found.report(plan).show()


@dataclass(slots=True)
class Found:
    """What was measured up to now. `redis_bytes_per_s`: how fast a Redis on this machine gives large values."""

    redis_bytes_per_s: float
    samples: list[Sample] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, plan: Plan) -> Report:
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
                "redis_megabytes_per_s": round(self.redis_bytes_per_s / 1e6),
            },
        )
        findings.add_first_tokens(report, self.samples)
        findings.add_runs(report, self.runs)
        findings.add_first_token_goals(report, self.samples, plan.first_token.long_tokens, self.redis_bytes_per_s)
        findings.add_throughput_goals(report, self.runs)
        report.notes += self.notes
        return report


def _publish(found: Found, plan: Plan, quick: bool) -> None:
    """After every part: a run that is broken off leaves what it has."""
    written = found.report(plan).write(results_folder(quick=quick))
    written.with_suffix(".svg").write_text(svg(findings.panels(found.samples, found.runs, plan.first_token.long_tokens)))


def _of_vllm(notes: list[str], plan: first_token.Plan) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name) / "text"
        on_passing_thread(lambda: save_text_model(folder))
        try:
            return first_token.measure_vllm(folder, plan)
        except SkippedSide as reason:
            notes.append(f"{VLLM}: skipped: {reason}")
            return []


if __name__ == "__main__":
    main()
