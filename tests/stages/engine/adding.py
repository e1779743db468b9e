"""Items of an engine that adds."""

from typing import Any

from tests.stages.bench import AddingEngine, Bench, submit
from tests.stages.fakes import Add, Adder, Inbox


def add(engine: AddingEngine, a: int, b: int = 0, **item: Any) -> Inbox:
    return submit(engine, Add(a, b), **item)[0]


def busy(bench: Bench, **options: Any) -> tuple[AddingEngine, Adder, Inbox]:
    """An engine whose device is busy with (1, 0)."""
    stage = Adder(run_gate=bench.gate())
    engine = bench.one_shot(stage, **options)
    inbox = add(engine, 1)
    stage.run_gate.wait_for(1)
    return engine, stage, inbox
