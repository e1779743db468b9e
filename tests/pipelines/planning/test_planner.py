"""Plans: as good as a search over all of them, within memory, nodes and bounds, and the same each time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.planning.fleet import GIB, Demand, Device, Fleet, RequestClass, Rules
from pipelines.planning.plan import Plan
from pipelines.planning.planner import plan
from pipelines.planning.solving.columns import columns, groups
from pipelines.planning.solving.program import Asked, Goal
from pipelines.planning.solving.search import Patience, Search
from stages.contract.errors import ConfigurationError
from stages.contract.work import Work
from tests.pipelines.planning.fleets import (
    A100,
    ANSWER,
    CHAT,
    DECODE,
    H100,
    IMAGE,
    L4,
    LLM,
    ON_L4,
    PAINT,
    PAINTED,
    PROMPT,
    SEE,
    TEXT,
    best_by_trying_all,
    fleet,
    measured,
    with_slo,
)

PATIENT = Patience(time_limit_s=600, gap=1e-6)
WHOLE = Rules(fractions=(1.0,))


def kept(found: Plan, given_fleet: Fleet, rules: Rules) -> None:
    """What every plan keeps."""
    for use in found.devices:
        taken = sum(pool.fraction * pool.replicas for pool in found.pools if pool.device == use.device)
        assert taken <= use.count + 1e-9
        assert sum(count for count, _ in use.layouts) == use.used <= use.count
    for pool in found.pools:
        assert pool.utilisation <= rules.utilisation + 1e-6
        device = next(device for device in given_fleet.devices if device.name == pool.device)
        needs = sum(
            given_fleet.measured[each.stage, pool.device].weights_bytes
            + each.rows * given_fleet.measured[each.stage, pool.device].row_bytes
            for each in pool.stages
        )
        assert needs <= pool.fraction * rules.memory_part * device.memory_bytes
    for stage in given_fleet.stages:
        nodes = 0
        for device in given_fleet.devices:
            replicas = sum(
                pool.replicas
                for pool in found.pools
                if pool.device == device.name and stage in [each.stage for each in pool.stages]
            )
            nodes += min(replicas, device.num_nodes)
        assert nodes >= rules.replicas
    for each in given_fleet.classes:
        rate = next(planned.rate for planned in found.classes if planned.name == each.name)
        for demand in each.demands:
            flow = sum(
                share.items_per_s for share in found.shares if (share.of_class, share.stage) == (each.name, demand.stage)
            )
            assert flow == pytest.approx(rate * demand.items, rel=1e-4, abs=1e-6)
    for planned in found.classes:
        for bound in planned.bounds:
            assert bound.expected_s <= bound.bound_s * (1 + 1e-4)


@settings(max_examples=8)
@given(
    counts=st.sampled_from([(0, 1), (1, 0), (1, 1), (2, 0), (0, 2)]),
    gain=st.floats(0.5, 8),
    rate=st.floats(0.2, 5),
    fixed=st.floats(0.005, 0.1),
    token_s=st.sampled_from([None, 0.08, 0.4]),
    utilisation=st.sampled_from([0.5, 0.8, 1.0]),
)
def test_a_plan_of_a_small_fleet_is_as_good_as_the_best_of_all(
    counts: tuple[int, int], gain: float, rate: float, fixed: float, token_s: float | None, utilisation: float
) -> None:
    quick, slow = replace(H100, count=counts[0]), replace(L4, count=counts[1])
    on_l4 = {SEE: measured(fixed, 1e-4, 2), LLM: measured(0.02, 2e-3 * gain / 4, 4, gib=10, one_shot=False)}
    chat = with_slo(replace(CHAT, rate=rate), token_s=token_s) if token_s else replace(CHAT, rate=rate)
    few = fleet((slow, quick), (chat,), (SEE, LLM), on_l4)
    rules = Rules(utilisation, fractions=(1.0, 0.5) if sum(counts) == 1 else (1.0,))
    search = Search(few, rules, Asked(), PATIENT)
    search.best(search.highest_rate() or 1.0)
    best = best_by_trying_all(few, rules, search.every)
    try:
        found = plan(few, rules, patience=PATIENT)
    except ConfigurationError:
        assert best == 0.0
        return
    kept(found, few, rules)
    assert found.rate == pytest.approx(best, rel=1e-4)
    assert found.gap <= 1e-4
    assert found.bound >= found.rate


@pytest.mark.parametrize(("times", "is_shared"), [(1.0, True), (100.0, False)])
def test_rows_share_a_device_with_no_much_longer_rows_where_there_are_devices_for_both(times: float, is_shared: bool) -> None:
    """Such as an answer's steps with a painting's: its rows would last as many of those as it has tokens."""
    on_l4 = {LLM: measured(0.02, 2e-3, 4, one_shot=False), PAINT: measured(0.02 * times, 2e-3 * times, 4, one_shot=False)}
    visits = (Demand(LLM, Work(100, 100)), Demand(PAINT, Work(100, 100)))
    many = fleet((L4,), (RequestClass("both", 1.0, visits),), (LLM, PAINT), on_l4)
    assert ((LLM, PAINT) in set(groups(many, L4))) == is_shared
    alone = fleet((replace(L4, count=1),), many.classes, (LLM, PAINT), on_l4)
    assert (LLM, PAINT) in set(groups(alone, L4))


def test_each_stage_runs_where_it_gains_most() -> None:
    """The H100 gains 6 times by painting and 3 times by chatting, so it paints."""
    two = fleet(
        (replace(L4, count=3, memory_bytes=80 * GIB), H100),
        stages=(LLM, PAINT),
        classes=(
            RequestClass("chat", 1.0, (Demand(LLM, ANSWER),)),
            RequestClass("paint", 0.6, (Demand(PAINT, Work(50 * 2 * 4096, 50)),)),
        ),
    )
    found = plan(two, WHOLE, patience=PATIENT)
    hosts = {pool.device: {each.stage: each.busy for each in pool.stages} for pool in found.pools if pool.replicas}
    assert hosts["h100"][PAINT] > 0.5
    assert any(
        "does 6 times a l4's paint.denoiser, but 3 times its see.llm" in line for pool in found.pools for line in pool.reasons
    )


def test_a_bound_on_tokens_keeps_batches_small_and_the_plan_says_so() -> None:
    strict = fleet(
        (replace(L4, count=2),), (with_slo(replace(CHAT, demands=(Demand(LLM, ANSWER, 1.0, PROMPT),)), token_s=0.07),), (LLM,)
    )
    found = plan(strict, WHOLE, patience=PATIENT)
    (pool,) = found.pools
    assert pool.stages[0].rows == 4
    assert any("batches of 8 would take see.llm 0.0909 s (chat: token_s 0.07)" in line for line in pool.reasons)
    kept(found, strict, WHOLE)


def test_stages_share_out_a_bound_on_their_times_together() -> None:
    """Each alone could be slow; all together they must not."""
    loose, strict = (fleet(classes=(CHAT, with_slo(PAINTED, total_s=bound))) for bound in (1000, 20))
    rules = Rules()
    slower, faster = (plan(each, rules, patience=Patience(3)) for each in (loose, strict))
    kept(slower, loose, rules)
    kept(faster, strict, rules)
    assert faster.rate < slower.rate


def test_every_stage_has_its_replicas_on_as_many_nodes() -> None:
    rules = Rules(replicas=2)
    kept(plan(fleet(), rules, patience=Patience(3)), fleet(), rules)


def test_the_same_fleet_has_the_same_plan_each_time() -> None:
    first, second = (plan(fleet((L4, A100)), WHOLE, patience=Patience(60, 1e-3)) for _ in range(2))
    assert first == second


def test_the_least_cost_serves_the_rate() -> None:
    dear = plan(fleet(), WHOLE, patience=Patience(5))
    rate = dear.rate / 3
    cheap = plan(fleet(), WHOLE, Asked(Goal.COST, rate), Patience(5))
    assert cheap.rate == pytest.approx(rate, rel=1e-6)
    assert cheap.cost_per_hour is not None
    assert dear.cost_per_hour is not None
    assert cheap.cost_per_hour < dear.cost_per_hour
    assert cheap.bound <= cheap.cost_per_hour * (1 + 1e-6)
    kept(cheap, fleet(), WHOLE)


def test_the_least_cost_of_a_small_fleet_is_the_least_of_all() -> None:
    """4 L4 at 1, 2 A100 at 3: for every rate that some subset serves at its best, the cheapest such subset."""
    few = fleet((replace(L4, count=2), replace(A100, count=1)), (CHAT,), (SEE, LLM))
    rates = {}
    for l4 in range(3):
        for a100 in range(2):
            part = replace(few, devices=(replace(L4, count=l4), replace(A100, count=a100)))
            rates[l4, a100] = best_by_trying_all(part, WHOLE, columns(few, WHOLE))
    for wanted in [rate * 0.99 for rate in rates.values() if rate > 0]:
        least = min(l4 + 3 * a100 for (l4, a100), rate in rates.items() if rate >= wanted)
        assert plan(few, WHOLE, Asked(Goal.COST, wanted), PATIENT).cost_per_hour == pytest.approx(least)


def test_one_more_device_brings_what_a_plan_with_it_has_more() -> None:
    few = fleet((replace(L4, count=2, memory_bytes=80 * GIB),), (CHAT,), (SEE, LLM))
    more = replace(few, devices=(replace(few.devices[0], count=3),))
    now, then = (plan(each, WHOLE, patience=PATIENT) for each in (few, more))
    assert now.devices[0].one_more == pytest.approx(then.rate - now.rate, rel=1e-3)
    assert now.how_one_more == "solved again"


def test_a_type_of_which_there_is_none_yet_is_told_what_it_would_bring() -> None:
    found = plan(fleet((L4, replace(H100, count=0))), WHOLE, patience=Patience(5))
    use = next(use for use in found.devices if use.device == "h100")
    assert use.used == 0
    assert use.one_more is not None
    assert use.one_more > 0


def test_a_stage_that_no_class_visits_is_placed() -> None:
    found = plan(fleet(classes=(CHAT,)), WHOLE, patience=Patience(5))
    assert {each.stage for pool in found.pools for each in pool.stages} == {SEE, LLM, TEXT, PAINT, DECODE}


def test_what_fits_nowhere_is_refused_with_what_it_needs() -> None:
    huge = {**ON_L4, LLM: replace(ON_L4[LLM], weights_bytes=140 * GIB, dtype="bfloat16")}
    with pytest.raises(
        ConfigurationError,
        match=r"see\.llm needs 140 GiB in bfloat16, one item at a time: no device has it; the largest has 80",
    ):
        plan(fleet(on_l4=huge))


def test_what_is_nowhere_measured_is_refused_with_how_to_measure_it() -> None:
    known = fleet()
    unknown = replace(known, measured={key: value for key, value in known.measured.items() if key[0] != TEXT})
    with pytest.raises(ConfigurationError, match=r"paint\.text_encoder: nothing is known of it .*triptych profile"):
        plan(unknown)


def test_a_bound_that_no_device_keeps_is_refused_with_the_quickest_times() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"paint: total_s 1 s: at the quickest, in the smallest batches, it is .* \(paint\.text_encoder",
    ):
        plan(fleet(classes=(CHAT, with_slo(PAINTED, total_s=1))))


def test_more_nodes_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"5 replicas on as many nodes are asked for, and it can run on 2"):
        plan(fleet((L4,)), Rules(replicas=5))


def test_a_rate_beyond_all_devices_is_refused_with_what_they_serve() -> None:
    with pytest.raises(ConfigurationError, match=r"1000 requests a second are asked for, and these devices serve"):
        plan(fleet(), WHOLE, Asked(Goal.COST, 1000), Patience(3))


def test_cost_needs_prices() -> None:
    with pytest.raises(ConfigurationError, match="l4: no price_per_hour"):
        plan(fleet((replace(L4, price_per_hour=None),)), WHOLE, Asked(Goal.COST, 0.1))


def test_a_bound_on_tokens_needs_a_stage_that_answers_in_tokens() -> None:
    with pytest.raises(ConfigurationError, match="paint: a bound on tokens needs a stage that answers in tokens"):
        plan(fleet(classes=(with_slo(PAINTED, token_s=1),)))


def test_requests_that_ask_nothing_of_the_stages_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no class of requests asks anything of these stages"):
        plan(fleet(classes=(replace(CHAT, demands=()),)))


def test_a_plan_on_estimates_says_so() -> None:
    known = fleet()
    reckoned = {
        key: replace(value, speed=replace(value.speed, is_estimate=key[1] == "h100")) for key, value in known.measured.items()
    }
    found = plan(replace(known, measured=reckoned), WHOLE, patience=Patience(5))
    assert {pool.device for pool in found.pools if pool.is_estimate} == {"h100"}
    assert any("reckoned from datasheets" in line for line in found.reasons)


def test_parts_of_a_device_are_used_where_whole_ones_would_be_wasted() -> None:
    """Two stages with hardly anything to do, one of them too large to share a replica with the other's full batches."""
    one = Device("l4", 1, 24 * GIB)
    found = plan(fleet((one,), (CHAT,), (SEE, LLM)), Rules(), patience=PATIENT)
    kept(found, fleet((one,), (CHAT,), (SEE, LLM)), Rules())
    assert {stage.stage for pool in found.pools for stage in pool.stages} == {SEE, LLM}
    assert sum(pool.fraction * pool.replicas for pool in found.pools) <= 1


def test_no_device_is_shared_by_parts_that_are_all_the_same() -> None:
    """Two halves would hold the weights twice."""
    found = plan(fleet((replace(L4, count=5, memory_bytes=80 * GIB),), (CHAT,), (SEE, LLM)), Rules(), patience=PATIENT)
    for use in found.devices:
        for _, names in use.layouts:
            assert len(names) == 1 or len(set(names)) > 1


def test_images_that_are_remembered_are_not_encoded() -> None:
    """Nothing is visited that has nothing to do, and its time counts for no bound."""
    remembered = replace(CHAT, demands=(Demand(SEE, IMAGE, 0.0), Demand(LLM, ANSWER, 1.0, PROMPT)))
    found = plan(fleet(classes=(with_slo(remembered, first_token_s=2),)), WHOLE, patience=Patience(5))
    assert all(share.stage != SEE for share in found.shares)
