"""What is told of stages, of what their replicas say; and of what they said, while nobody answers."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.cluster.state import directory, serve_status
from pipelines.cluster.state.directory import Computing, ServeDirectory, computing, serving
from pipelines.settings.config_file import parse
from stages.contract.errors import Unavailable
from stages.contract.item import StageMetrics

ARGS: dict[str, Any] = {
    "models": {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}},
    "deployments": {"clip": {"stages": ["clip.embedder"], "num_replicas": 1}},
    "cache": {"redis": None},
}
CONFIG = parse(ARGS)


def test_what_a_stage_computes_with_is_told_by_who_hosts_it_and_not_by_who_asked_it() -> None:
    encoder = StageMetrics("m.vision_encoder", "encoder", "cuda", "float16", {}, pool="encoders")
    asked = StageMetrics("m.vision_encoder", "llm", "cpu", "float32", {}, is_hosted=False, pool="llms")
    llm = StageMetrics("m.llm", "llm", "cpu", "float32", {}, pool="llms")
    told = {
        ("m.vision_encoder", "encoders"): Computing("cuda", "float16", None),
        ("m.llm", "llms"): Computing("cpu", "float32", None),
    }
    assert computing([encoder, llm, asked]) == computing([llm, asked, encoder]) == told
    assert computing([asked]) == {}


def test_what_the_replicas_of_a_pool_take_at_once_adds_up() -> None:
    bounds = [("a", 8.0), ("a", 6.0), ("b", 2.0)]
    told = computing([StageMetrics("m.llm", "r", "cpu", "float32", {"batch_bound_items": n}, pool=pool) for pool, n in bounds])
    assert {pool: known.capacity for (_, pool), known in told.items()} == {"a": 14, "b": 2}


def test_replicas_that_a_new_controller_has_yet_to_hear_from_still_serve() -> None:
    assert serving({"RUNNING": 1, "RECOVERING": 2, "STARTING": 4, "STOPPING": 8}) == 3
    assert serving({}) == 0


class Controller:
    """Serve's: answers while `here`, and what was asked meanwhile once it is back."""

    def __init__(self) -> None:
        self.here, self.times_asked = threading.Event(), 0

    def applications(self) -> Any:
        self.times_asked += 1
        self.here.wait()
        deployment = SimpleNamespace(replica_states={"RUNNING": 1})
        return {"app": SimpleNamespace(deployments={"clip": deployment})}


class Table:
    """The metrics table's handle."""

    def __init__(self) -> None:
        self.times_read = 0

    @property
    def read(self) -> "Table":
        return self

    async def remote(self) -> Sequence[StageMetrics]:
        self.times_read += 1
        return [StageMetrics("clip.embedder", "r1", "cuda", "float16", {"batch_bound_items": 8.0}, pool="clip")]


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    controller = Controller()
    monkeypatch.setattr(serve_status, "applications", controller.applications)
    monkeypatch.setattr(directory, "ANSWER_WITHIN_S", 0.05)
    yield controller
    controller.here.set()


async def test_while_the_controller_is_away_what_it_said_last_is_told_with_its_age(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "FRESH_S", 0.0)
    stages = ServeDirectory(CONFIG, Table(), {"clip": "app"})
    controller.here.set()
    (card,) = await stages.cards()
    assert (card.ready, card.device, card.dtype) == (True, "cuda", "float16")

    controller.here.clear()
    told = await asyncio.gather(*[stages.cards() for _ in range(8)])
    later = await stages.cards()
    assert all(cards[0].ready for cards in (*told, later))
    assert later[0].age_s > card.age_s
    assert controller.times_asked == 2  # one question for everybody, and none beside it


async def test_each_pool_of_a_stage_is_told_apart(controller: Controller) -> None:
    pools = {
        "clip": {"stages": ["clip.embedder"]},
        "other": {
            "stages": ["clip.embedder"],
            "overrides": {"clip.embedder": {"dtype": "bfloat16"}},
            "ray_actor_options": {"accelerator_type": "L4", "num_gpus": 1},
        },
    }
    stages = ServeDirectory(parse({**ARGS, "deployments": pools}), Table(), {"clip": "app"})
    controller.here.set()
    there, away = await stages.cards()
    assert (there.deployment, there.ready, there.device, there.dtype, there.capacity) == ("clip", True, "cuda", "float16", 8)
    assert (away.deployment, away.ready, away.device, away.dtype, away.capacity) == ("other", False, "cuda", "bfloat16", 0)
    assert (there.accelerator_type, away.accelerator_type) == (None, "L4")


async def test_a_controller_that_never_answered_is_a_clear_refusal(controller: Controller) -> None:
    stages = ServeDirectory(CONFIG, Table(), {"clip": "app"})
    for _ in range(8):
        with pytest.raises(Unavailable, match="Serve's controller does not answer"):
            await stages.cards()
    assert controller.times_asked == 1


async def test_everybody_reads_the_same_counters(controller: Controller) -> None:
    table = Table()
    stages = ServeDirectory(CONFIG, table, {"clip": "app"})
    told = await asyncio.gather(*[stages.metrics() for _ in range(8)])
    assert all(metrics[0].stage == "clip.embedder" for metrics in told)
    assert table.times_read == 1
