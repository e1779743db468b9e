"""What is made of the samples: rows with their spread, ratios to the cold chat of the same round, and the goals. Pure."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.cache.samples import (
    AGAIN,
    ALONE,
    BEFORE,
    COLD,
    ELSEWHERE,
    FORGETS,
    KILLED,
    MEMORY_LOST,
    NEW,
    OURS,
    PAIRED,
    PROMPTS,
    REMEMBERS,
    SHORT,
    SLOTS_LOST,
    TWO,
    VLLM,
    Run,
    Sample,
    tokens,
)
from benchmarks.reporting.plot import Bar, Panel
from benchmarks.reporting.report import Goal, Report

BESIDE_S = 0.010
LONG_GOALS = {AGAIN: 0.10, SLOTS_LOST: 0.10, MEMORY_LOST: 0.2, KILLED: 0.25}
"""Of the time of the cold chat."""
HIGH_REUSE, HIGH_GOAL, NEW_GOAL = 0.8, 2.0, 0.98


def of(samples: Iterable[Sample], side: str, about: str, situation: str) -> list[Sample]:
    return [one for one in samples if (one.side, one.about, one.situation) == (side, about, situation)]


def to_cold(samples: Sequence[Sample], side: str, about: str, situation: str) -> list[float]:
    """Of each chat, its time as a share of its round's cold one."""
    cold = {one.round: one.asked.seconds for one in of(samples, side, about, COLD)}
    found = of(samples, side, about, situation)
    return [one.asked.seconds / cold[one.round] for one in found if one.round in cold]


def add_first_tokens(report: Report, samples: Sequence[Sample]) -> None:
    for side, about, situation in dict.fromkeys((one.side, one.about, one.situation) for one in samples):
        found = of(samples, side, about, situation)
        seconds = [one.asked.seconds for one in found]
        ratios = to_cold(samples, side, about, situation)
        report.add(
            side=side,
            load=f"{about}, {situation}",
            chats=len(found),
            median_ms=1000 * statistics.median(seconds),
            lowest_ms=1000 * min(seconds),
            highest_ms=1000 * max(seconds),
            to_cold=statistics.median(ratios) if ratios and situation != COLD else None,
            came_from=_told(one.asked.came_from for one in found),
            encoder=_told(one.asked.encoder for one in found),
            tokens_saved=statistics.median(one.asked.cached_tokens / one.asked.prompt_tokens for one in found),
            megabytes_moved=statistics.median(one.asked.bytes_moved for one in found) / 1e6,
        )


def _told(outcomes: Iterable[str]) -> str | None:
    """Such as "redis", or "redis 4, miss 1"."""
    counts = Counter(outcome for outcome in outcomes if outcome)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()) or None


def add_runs(report: Report, runs: Sequence[Run]) -> None:
    for about, reuse, side in dict.fromkeys((run.about, run.reuse, run.side) for run in runs):
        found = runs_of(runs, about, reuse, side)
        speeds = [run.per_s for run in found]
        report.add(
            side=side,
            load=f"{about}, {reuse:.0%} again",
            turns=len(found),
            chats=sum(len(run.asked) for run in found),
            per_s=statistics.median(speeds),
            lowest_per_s=min(speeds),
            highest_per_s=max(speeds),
            to_forgetting=_ratio(runs, about, reuse) if side == REMEMBERS else None,
            tokens_saved=statistics.median(run.tokens_saved for run in found),
            images_encoded=sum(run.encoded for run in found),
        )


def runs_of(runs: Iterable[Run], about: str, reuse: float, side: str) -> list[Run]:
    return [run for run in runs if (run.about, run.reuse, run.side) == (about, reuse, side)]


def _ratio(runs: Sequence[Run], about: str, reuse: float) -> float | None:
    """Of speeds in the same turn, where all is remembered and where nothing is (to which all is new): the median over turns."""
    without = {run.turn: run.per_s for run in runs_of(runs, about, 0.0, FORGETS)}
    ratios = [run.per_s / without[run.turn] for run in runs_of(runs, about, reuse, REMEMBERS) if run.turn in without]
    return statistics.median(ratios) if ratios else None


def add_first_token_goals(report: Report, samples: Sequence[Sample], long: int, redis_bytes_per_s: float) -> None:
    for situation, bound in LONG_GOALS.items():
        if ratios := to_cold(samples, OURS, tokens(long), situation):
            measured = statistics.median(ratios)
            why = _where(of(samples, OURS, tokens(long), situation)) if measured > bound else ""
            report.goals.append(Goal(f"{long} tokens, {situation} / cold", measured, bound, at_most=True, why=why))
    alone = of(samples, OURS, tokens(SHORT), ALONE)
    found = of(samples, OURS, tokens(SHORT), PAIRED)
    _add_beside(report, "in a slot", _more_s(found, alone), BESIDE_S, found)
    found, before = of(samples, OURS, tokens(SHORT), MEMORY_LOST), of(samples, OURS, tokens(SHORT), BEFORE)
    moved_s = statistics.median(one.asked.bytes_moved for one in found) / redis_bytes_per_s if found else 0.0
    _add_beside(report, "in Redis", _more_s(found, before), BESIDE_S + moved_s, found)


def _more_s(found: Sequence[Sample], alone: Sequence[Sample]) -> list[float]:
    """By how much longer each took than the one beside it, of those of which as many tokens were computed: a first word may be another
    chat's, too."""
    pairs = [(one.asked, other.asked) for one, other in zip(found, alone, strict=True)]
    return [one.seconds - other.seconds for one, other in pairs if abs(one.num_computed - other.num_computed) <= 1]


def _add_beside(report: Report, where: str, seconds: Sequence[float], bound: float, found: Sequence[Sample]) -> None:
    """What a short beginning adds to what follows it: the median of differences between two chats, one right after the other, and their
    quartiles."""
    if len(seconds) < 2:
        return
    lower, median, upper = statistics.quantiles(seconds, n=4)
    load = f"{SHORT} tokens {where}, less what follows alone"
    report.add(side=OURS, load=load, chats=len(seconds), median_ms=1000 * median, lower_ms=1000 * lower, upper_ms=1000 * upper)
    report.goals.append(Goal(f"{load}: seconds", median, bound, at_most=True, why=_where(found)))


def add_throughput_goals(report: Report, runs: Sequence[Run]) -> None:
    high = _ratio(runs, PROMPTS, HIGH_REUSE)
    if high is not None:
        found = runs_of(runs, PROMPTS, HIGH_REUSE, REMEMBERS)
        saved = statistics.median(run.tokens_saved for run in found)
        why = f"{saved:.0%} of the prompts' tokens were not computed" if high < HIGH_GOAL else ""
        report.goals.append(
            Goal(f"{PROMPTS}, {HIGH_REUSE:.0%} again: chats a second / with nothing remembered", high, HIGH_GOAL, why=why)
        )
    new = _ratio(runs, NEW, 0.0)
    if new is not None:
        report.goals.append(Goal(f"{NEW}: chats a second / with nothing remembered", new, NEW_GOAL))


def _where(samples: Sequence[Sample]) -> str:
    left = statistics.median(one.asked.prompt_tokens - one.asked.cached_tokens for one in samples)
    return f"came from: {_told(one.asked.came_from for one in samples) or 'nobody tells'}; {left:.0f} tokens were computed"


SHOWN: Mapping[tuple[str, str], str] = {
    (OURS, COLD): "cold",
    (OURS, AGAIN): "warm: in a slot",
    (OURS, SLOTS_LOST): "warm: in memory",
    (OURS, MEMORY_LOST): "warm: in Redis",
    (OURS, KILLED): "after kill -9 of the replica",
    (TWO, ELSEWHERE): "on another replica",
    (VLLM, AGAIN): "vLLM: warm",
    (VLLM, KILLED): "vLLM: after a restart",
}


def panels(samples: Sequence[Sample], runs: Sequence[Run], long: int) -> list[Panel]:
    first = []
    for (side, situation), label in SHOWN.items():
        ratios = [1.0] if situation == COLD else to_cold(samples, side, tokens(long), situation)
        if ratios and of(samples, side, tokens(long), situation):
            share = statistics.median(ratios)
            first.append(Bar(label, share, f"{share:.2f}", is_reference=side == VLLM or situation == COLD))
    return [
        Panel(f"Time to the first token, {long} tokens of system prompt, as a share of cold", first),
        Panel("Chats a second on two replicas, as a multiple of remembering nothing", _speed_bars(runs)),
    ]


def _speed_bars(runs: Sequence[Run]) -> list[Bar]:
    bars = [Bar("nothing remembered", 1.0, "1.0", is_reference=True)]
    for about, reuse in dict.fromkeys((run.about, run.reuse) for run in runs if run.side == REMEMBERS and run.about != NEW):
        ratio = _ratio(runs, about, reuse)
        if ratio is not None:
            bars.append(Bar(f"{about}, {reuse:.0%} seen before", ratio, f"{ratio:.1f}"))
    return bars
