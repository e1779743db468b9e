"""Two tenants at one engine, of each kind: what one sends in masses keeps the other waiting for no more than a turn."""

from collections import Counter
from collections.abc import Sequence

import pytest

from stages.contract.errors import QueueFull
from stages.contract.limits import BatchLimits, QueueLimits
from stages.contract.recipe import Inputs
from stages.contract.stage import Share
from tests.stages.bench import Bench, number, prepared, submit
from tests.stages.fakes import Add, Adder, Countdown, CountFrom, Gate, PreparedCount, Sum


class Watched(Adder):
    """Tells in which order it prepared."""

    def __init__(self, **gates: Gate) -> None:
        super().__init__(**gates)
        self.prepared: list[int] = []

    def prepare(self, payload: Add, inputs: Inputs) -> Sum:
        made = super().prepare(payload, inputs)
        self.prepared.append(payload.b)
        return made


def whose(batches: Sequence[Sequence[int]]) -> list[Counter[int]]:
    """By tenant, how many of each batch."""
    return [Counter(total - 1 for total in batch) for batch in batches]


A, B = 100, 200  # the tenants, told by what they add to 1


def test_a_batch_is_shared_by_tenants_and_what_nobody_else_wants_is_theirs_who_want_it(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(8))
    first, _ = submit(engine, Add(1))
    stage.run_gate.wait_for(1)
    answers = [submit(engine, Add(1, A), tenant="a", request="large")[0] for _ in range(60)]
    answers += [submit(engine, Add(1, B), tenant="b")[0] for _ in range(6)]
    prepared(engine, 66)
    stage.run_gate.open()
    assert first.wait().error is None
    assert {answer.total for answer in answers} == {1 + A, 1 + B}
    assert whose(stage.batches)[1:] == [{A: 4, B: 4}, {A: 6, B: 2}, *[{A: 8}] * 6, {A: 2}]


def test_a_full_queue_has_room_for_another_tenants_part(bench: Bench) -> None:
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, batch=BatchLimits(1), queue=QueueLimits(8))
    first, _ = submit(engine, Add(1))
    stage.run_gate.wait_for(1)
    answers = [submit(engine, Add(1, A), tenant="a")[0] for _ in range(8)]
    with pytest.raises(QueueFull):
        submit(engine, Add(1, A), tenant="a")
    with pytest.raises(QueueFull):
        engine.needs(Add(1, A, plus=(number("x"),)), "a")
    assert engine.needs(Add(1, B, plus=(number("x"),)), "b")
    answers += [submit(engine, Add(1, B), tenant="b")[0] for _ in range(4)]
    with pytest.raises(QueueFull):
        submit(engine, Add(1, B), tenant="b")
    assert (engine.metrics()["queued_tenants"], engine.metrics()["let_in_beyond_total"]) == (2, 4)
    stage.run_gate.open()
    assert [answer.wait().error for answer in [first, *answers]] == [None] * 13


def test_what_is_prepared_next_is_a_matter_of_turns_too(bench: Bench) -> None:
    stage = Watched(prepare_gate=bench.gate())
    engine = bench.one_shot(stage, prepare_threads=1)
    answers = [submit(engine, Add(1, A), tenant="a")[0]]
    stage.prepare_gate.wait_for(1)
    answers += [submit(engine, Add(1, A), tenant="a", request="large")[0] for _ in range(20)]
    answers += [submit(engine, Add(1, B), tenant="b")[0] for _ in range(2)]
    stage.prepare_gate.open()
    assert [answer.wait().error for answer in answers] == [None] * 23
    assert stage.prepared.index(B) <= 2
    assert stage.prepared[:6].count(B) == 2


def test_within_a_tenant_the_urgent_is_prepared_first(bench: Bench) -> None:
    stage = Watched(prepare_gate=bench.gate())
    engine = bench.one_shot(stage, prepare_threads=1)
    answers = [submit(engine, Add(1))[0]]
    stage.prepare_gate.wait_for(1)
    answers += [submit(engine, Add(1, 2 - priority), priority=priority)[0] for priority in (1, 0, -1)]
    stage.prepare_gate.open()
    assert [answer.wait().error for answer in answers] == [None] * 4
    assert stage.prepared == [0, 3, 2, 1]


class Named(Countdown):
    """Tells whose rows were in a step, by their key's first letter; all keys share a step."""

    def share(self, prepared: PreparedCount) -> Share:
        return Share("all", 1.0)

    def batch_key(self, row: object) -> str:
        return "all"


def test_a_tenant_whose_long_answers_take_all_slots_makes_way_for_another(bench: Bench) -> None:
    """n: 8 on two slots, and then one from elsewhere: its two steps don't wait for fifty."""
    stage = Named(slots=2, gate=bench.gate())
    engine = bench.iterative(stage, batch=BatchLimits(2))
    crowd = [submit(engine, CountFrom(50, "a"), tenant="a", request="n8", priority=-5)[0] for _ in range(8)]
    stage.gate.wait_for(1)
    prepared(engine, 6)
    stage.gate.let(3)
    stage.gate.wait_for(4)
    single, _ = submit(engine, CountFrom(2, "b"), tenant="b", priority=5)
    prepared(engine, 7)
    stage.gate.let(1)
    stage.gate.wait_for(5)
    stage.gate.let(2)
    assert single.wait().error is None
    assert len(stage.steps) <= 7
    assert engine.metrics()["preempted_for_others_total"] == 1
    stage.gate.open()
    assert [inbox.wait().error for inbox in crowd] == [None] * 8
    assert [inbox.seen for inbox in crowd] == [list(range(49, -1, -1))] * 8, "each row went on where it had stopped"
