"""What goes from one deployment to another takes its time, and a plan counts it."""

from dataclasses import replace

import pytest

from pipelines.planning.fleet import CROSSING, Demand, RequestClass, Rules
from pipelines.planning.planner import plan
from pipelines.planning.solving.columns import Column, candidates
from pipelines.planning.solving.search import Patience
from stages.contract.cost import StepTimes
from tests.pipelines.planning.fleets import ANSWER, CHAT, IMAGE, L4, LLM, PROMPT, SEE, fleet, with_slo

WHOLE = Rules(fractions=(1.0,))
LARGE = 5e6
SLOW = StepTimes(((0.0, 1.0),))


def chat(result_bytes: float = LARGE) -> RequestClass:
    return replace(CHAT, demands=(Demand(SEE, IMAGE, 0.6, result_bytes=result_bytes), Demand(LLM, ANSWER, 1.0, PROMPT)))


def column(*stages: str, is_gpu: bool = True, cpus_per_node: float = 4.0) -> Column:
    """On a whole device, in the largest batches."""
    device = replace(L4, is_gpu=is_gpu, per_node=1, cpus_per_node=cpus_per_node)
    found = candidates(fleet((device,), (chat(),), (SEE, LLM)), WHOLE)
    return next(each for each in found if each.stages == stages)


def test_who_asks_waits_for_what_is_made_elsewhere_and_for_nothing_in_the_same_replica() -> None:
    alone, together = column(LLM).crossing_s, column(SEE, LLM).crossing_s
    assert column(SEE).crossing_s == {("chat", SEE): 0.0}
    assert together == {("chat", SEE): 0.0, ("chat", LLM): CROSSING.seconds(0)}
    assert alone == {("chat", LLM): CROSSING.seconds(0) + CROSSING.seconds(LARGE)}
    assert CROSSING.seconds(LARGE) > 4 * CROSSING.seconds(0)


def test_it_counts_until_a_request_is_done_and_not_for_each_of_its_tokens() -> None:
    near, far = (
        next(
            each.taken_s
            for each in candidates(
                replace(fleet((L4,), (with_slo(chat(), first_token_s=9.0, token_s=9.0),), (SEE, LLM)), crossing=crossing),
                WHOLE,
            )
            if each.stages == (LLM,)
        )
        for crossing in (CROSSING, SLOW)
    )
    more = 2 - CROSSING.seconds(LARGE) - CROSSING.seconds(0)
    assert far["chat", "first_token_s", LLM] - near["chat", "first_token_s", LLM] == pytest.approx(more)
    assert far["chat", "token_s", LLM] == near["chat", "token_s", LLM]


def test_a_nodes_cpus_are_busy_with_it_and_a_gpu_is_not() -> None:
    on_gpu, on_cpus = column(LLM), column(LLM, is_gpu=False, cpus_per_node=4.0)
    crossing_s = on_gpu.crossing_s["chat", LLM]
    assert on_gpu.rate(LLM, ANSWER) == on_gpu.speed(LLM).rate(ANSWER)
    assert 1 / on_cpus.rate(LLM, ANSWER) == pytest.approx(1 / on_gpu.rate(LLM, ANSWER) + crossing_s / 4)
    assert column(SEE, LLM, is_gpu=False).rate(LLM, ANSWER) > on_cpus.rate(LLM, ANSWER)


def test_where_there_is_no_time_for_it_stages_share_their_replicas() -> None:
    """Two crossings would take longer than an answer's first token may."""
    near = replace(fleet((L4,), (with_slo(chat(), first_token_s=3.0),), (SEE, LLM)), crossing=SLOW)
    found = plan(near, WHOLE, patience=Patience(5))
    assert [{each.stage for each in pool.stages} for pool in found.pools] == [{SEE, LLM}] * len(found.pools)
    assert found.classes[0].bounds[0].expected_s <= 3.0
