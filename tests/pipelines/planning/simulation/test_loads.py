"""Loads are as they are said to be."""

import random
import statistics
from collections import Counter
from itertools import islice, pairwise

import pytest

from pipelines.planning.simulation.arrivals import day_and_night, every, gamma, poisson, ramp
from pipelines.planning.simulation.traffic import Kind, azure_trace, chats, exponential, fixed, paintings, traffic, zipf
from stages.contract.work import Work


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.5])
def test_gaps_have_the_mean_and_the_spread_that_were_asked_for(cv: float) -> None:
    gaps = [later - sooner for sooner, later in pairwise(islice(gamma(20.0, cv, seed=1), 30_000))]
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(cv, rel=0.06)


def test_days_are_busy_and_nights_are_quiet() -> None:
    times = list(islice(day_and_night(2.0, 10.0, 1000.0, seed=1), 12_000))
    by_phase = Counter(int(at % 1000 // 250) for at in times if at < 2000)
    assert by_phase[0] + by_phase[3] < 0.6 * (by_phase[1] + by_phase[2])
    assert sum(by_phase.values()) / 2000 == pytest.approx(6.0, rel=0.05)


def test_a_ramp_goes_through_its_rates_and_ends() -> None:
    times = list(ramp([(100.0, 5.0), (100.0, 0.0), (100.0, 20.0)], seed=2))
    assert times == sorted(times)
    parts = Counter(int(at // 100) for at in times)
    assert parts[0] == pytest.approx(500, rel=0.15)
    assert parts[1] == 0
    assert parts[2] == pytest.approx(2000, rel=0.1)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert list(islice(poisson(3.0, 1), 50)) == list(islice(poisson(3.0, 1), 50)) != list(islice(poisson(3.0, 2), 50))
    assert list(islice(every(0.5), 3)) == [0.0, 0.5, 1.0]


def test_the_most_popular_comes_as_often_as_zipf_says() -> None:
    source, draw = random.Random(1), zipf(1000, 1.0)
    counts = Counter(draw(source) for _ in range(50_000))
    assert counts[1] / counts[10] == pytest.approx(10, rel=0.15)
    assert set(counts) <= set(range(1, 1001))


def test_kinds_have_their_shares_and_their_calls() -> None:
    chat = chats("m.llm", prompt=fixed(300), answer=exponential(100), expected_answer=100, encoder="m.encoder", image=zipf(10))
    paint = paintings("p.denoiser", positions=fixed(4096), steps=fixed(20), text_encoder="p.text", decoder="p.vae")
    kinds = [Kind("chat", 3, chat, within_s=30), Kind("paint", 1, paint, priority=1)]
    requests = list(islice(traffic(every(0.1), kinds, seed=1), 4000))
    names = Counter(request.kind for request in requests)
    assert names["chat"] / names["paint"] == pytest.approx(3, rel=0.15)
    (chatted,) = next(request for request in requests if request.kind == "chat").calls
    assert chatted.expected == Work(300 + 99, 1 + 99)
    assert [need.stage for need in chatted.needs] == ["m.encoder"]
    painted, decoded = next(request for request in requests if request.kind == "paint").calls
    assert (painted.steps, painted.amount, decoded.stage) == (20, 4096, "p.vae")


def test_a_public_trace_is_read_as_it_is_published() -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:15:46.6805900,374,44",
        "2023-11-16 18:15:50.9951690,396,109",
    ]
    kind = Kind("azure", 1, chats("m.llm", prompt=fixed(1), answer=fixed(1), expected_answer=1), within_s=60)
    first, second = azure_trace(lines, kind, "m.llm", expected_answer=80, speed_up=2.0)
    assert first.at_s == 0.0
    assert second.at_s == pytest.approx(4.314579 / 2)
    assert [(call.prompt, call.steps) for call in (*first.calls, *second.calls)] == [(374, 44), (396, 109)]
    assert second.calls[0].expected is not None
    assert second.calls[0].expected.amount == 396 + 79
    assert second.within_s == 60
