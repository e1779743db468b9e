"""What the cache's benchmark decides: which requests come again, how long prompts are, and what is made of samples."""

import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cache import findings
from benchmarks.cache.samples import (
    AGAIN,
    ALONE,
    BEFORE,
    COLD,
    FORGETS,
    KILLED,
    MEMORY_LOST,
    NEW,
    OURS,
    PAIRED,
    PROMPTS,
    REMEMBERS,
    Asked,
    Run,
    Sample,
    tokens,
)
from benchmarks.cache.traffic import reused, traffic
from benchmarks.reporting.plot import Bar, Panel, svg
from benchmarks.reporting.report import Report


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 9))
def test_traffic_comes_again_as_often_as_asked_and_numbers_things_as_they_come(count: int, reuse: float, seed: int) -> None:
    asked = traffic(count, reuse=reuse, seed=seed)
    assert len(asked) == count
    assert list(dict.fromkeys(asked)) == list(range(len(set(asked))))
    assert len(set(asked)) == max(1, round(count * (1 - reuse)))
    assert traffic(count, reuse=reuse, seed=seed) == asked


def test_without_reuse_all_is_new_and_the_first_things_are_asked_about_most() -> None:
    assert traffic(5, reuse=0.0, seed=1) == [0, 1, 2, 3, 4]
    counts = Counter(traffic(2000, reuse=0.95, seed=1))
    assert counts[0] > 3 * counts[20] > 0
    assert reused(traffic(10, reuse=0.8, seed=2)) == pytest.approx(0.8)


def sample(about: str, situation: str, number: int, seconds: float, came_from: str = "miss") -> Sample:
    moved = int(1e6) if came_from == "redis" else 0
    return Sample(OURS, about, situation, number, Asked(seconds, 100, 80, 1, came_from, bytes_moved=moved))


def test_a_round_is_compared_with_its_own_cold_chat() -> None:
    about = tokens(1500)
    samples = [sample(about, COLD, number, cold) for number, cold in ((0, 4.0), (1, 8.0))]
    samples += [sample(about, KILLED, 0, 1.0, "redis"), sample(about, KILLED, 1, 4.0, "redis"), sample(about, KILLED, 7, 9.0)]
    assert findings.to_cold(samples, OURS, about, KILLED) == [0.25, 0.5]


def test_goals_are_ratios_to_cold_and_seconds_over_what_follows_alone() -> None:
    long, short = tokens(1500), tokens(256)
    samples = [sample(long, COLD, 0, 10.0), sample(long, AGAIN, 0, 0.9, "slots"), sample(long, MEMORY_LOST, 0, 2.5, "redis")]
    for number, slower in enumerate((1.0, 2.0, 5.0)):  # a machine that slows down from round to round
        for _ in range(2):
            samples += [
                sample(short, ALONE, number, 0.1 * slower),
                sample(short, PAIRED, number, 0.1 * slower + 0.015, "slots"),
            ]
        samples += [
            sample(short, BEFORE, number, 0.09 * slower),
            sample(short, MEMORY_LOST, number, 0.09 * slower + 0.019, "redis"),
        ]
    more_computed = Asked(60.0, 100, 60, 1, "slots")
    samples += [sample(short, ALONE, 3, 0.1), Sample(OURS, short, PAIRED, 3, more_computed)]  # says nothing of the beginning
    report = Report("cache", {})
    findings.add_first_token_goals(report, samples, 1500, redis_bytes_per_s=1e8)
    told = {goal.name: (round(goal.measured, 4), goal.is_met) for goal in report.goals}
    assert told["1500 tokens, again / cold"] == (0.09, True)
    assert told["1500 tokens, memory overwritten / cold"] == (0.25, False)
    assert told["256 tokens in a slot, less what follows alone: seconds"] == (0.015, False)
    assert told["256 tokens in Redis, less what follows alone: seconds"] == (0.019, True)
    assert [round(float(str(row["upper_ms"])), 3) for row in report.rows] == [15, 19]


def run(side: str, about: str, reuse: float, turn: int, wall_s: float) -> Run:
    return Run(side, about, reuse, reuse, turn, wall_s, [Asked(1.0, 100, 50, 1)] * 4, 1.0)


def test_speeds_are_compared_within_a_turn() -> None:
    runs = [run(FORGETS, PROMPTS, 0.0, turn, wall) for turn, wall in ((0, 40.0), (1, 80.0))]
    runs += [run(REMEMBERS, PROMPTS, 0.8, 0, 10.0), run(REMEMBERS, PROMPTS, 0.8, 1, 40.0)]
    runs += [run(FORGETS, NEW, 0.0, 0, 10.0), run(REMEMBERS, NEW, 0.0, 0, 20.0)]
    report = Report("cache", {})
    findings.add_throughput_goals(report, runs)
    assert [(round(goal.measured, 3), goal.is_met) for goal in report.goals] == [(3.0, True), (0.5, False)]
    findings.add_runs(report, runs)
    assert [row["to_forgetting"] for row in report.rows] == [None, 3.0, None, 0.5]


def test_a_chart_is_sound_xml_and_its_bars_are_to_scale() -> None:
    chart = svg([Panel("a < b", [Bar("one & two", 1.0, "1.0", is_reference=True), Bar("half", 0.5, "0.5")])])
    drawn = [node for node in ET.fromstring(chart).iter() if node.tag.endswith("rect")]
    widths = [float(node.attrib["width"]) for node in drawn[1:]]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
