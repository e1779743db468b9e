"""On a real Ray cluster: the scaler sets numbers of replicas over all applications under one budget, from zero and to zero, and what it set
outlives it."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest

from tests.cluster.live_cluster import deploy, embedder, ray_nodes, replicas
from tests.cluster.server import PATIENT, eventually

pytestmark = pytest.mark.cluster

BUDGET = 4
NUM_CALLERS = 100
"""So many wait that what one replica does in `drain_s` is not enough, also by far more than chance lets wait."""
SLOW = "tests.cluster.fake_stages:slow_stages"
PRESENT = ("RUNNING", "STARTING", "UPDATING", "STOPPING", "RECOVERING")


def pool(model: str, least: int) -> dict[str, Any]:
    return {
        "stages": [f"{model}.embedder"],
        "autoscaling_config": {"min_replicas": least, "max_replicas": 6, "downscale_delay_s": 6},
        "graceful_shutdown_timeout_s": 20,
        "ray_actor_options": {"num_cpus": 1},
    }


ARGS: dict[str, Any] = {
    "models": {
        name: {**embedder(), "embedder": {"source": {"demo": "clip"}, "batch": {"max_items": 2}}} for name in ("busy", "idle")
    },
    "deployments": {"busy": pool("busy", 1), "idle": pool("idle", 0)},
    "cache": {"redis": None, "kv": None},
    "scaling": {"budget": {"devices": {"cpu": BUDGET}}, "period_s": 0.5, "drain_s": 5},
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ray_nodes({"num_cpus": 12}) as port:
        deploy(ARGS, SLOW)
        yield port


class Burst:
    """So many callers that ask a model all the time, and whoever counts replicas meanwhile."""

    def __init__(self, port: int, model: str, num_callers: int) -> None:
        self._port, self._model = port, model
        self._stopping = threading.Event()
        self.failures: list[str] = []
        self.seen: list[tuple[float, Mapping[str, int]]] = []
        """When, and how many replicas of which deployment in which state."""
        self.num_answers = self.most = 0
        self._threads = [threading.Thread(target=self._ask, args=(caller,)) for caller in range(num_callers)]
        self._threads.append(threading.Thread(target=self._count))

    def __repr__(self) -> str:
        return f"{self.num_answers} answers, {len(self.failures)} failures {self.failures[:3]}, replicas {self.seen}"

    def __enter__(self) -> "Burst":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, caller: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=110, trust_env=False) as client:
            while not self._stopping.is_set():
                body = {"model": self._model, "input": f"{caller} {self.num_answers}"}
                answer = client.post("/v1/embeddings", json=body, headers=PATIENT)
                self.num_answers += 1
                if answer.status_code != 200:
                    self.failures.append(answer.text)

    def _count(self) -> None:
        began, before = time.monotonic(), None
        while not self._stopping.wait(0.2):
            self.most = max(self.most, sum(present().values()))
            if (now := states()) != before:
                before = now
                self.seen.append((round(time.monotonic() - began, 1), now))


def present(states: Sequence[str] = PRESENT) -> Mapping[str, int]:
    """Replicas of stages, by deployment."""
    found = {"busy": 0, "idle": 0}
    for name, replica in replicas():
        if name in found and replica["state"] in states:
            found[name] += 1
    return found


def states() -> Mapping[str, int]:
    """How many replicas of which deployment are in which state."""
    return Counter(f"{name} {replica['state']}" for name, replica in replicas() if name in ("busy", "idle"))


def running() -> Mapping[str, int]:
    return present(("RUNNING",))


def scalers() -> Sequence[int]:
    """Their processes."""
    return [replica["pid"] for name, replica in replicas() if name == "scaler" and replica["state"] == "RUNNING"]


def test_a_pool_with_no_minimum_begins_asleep(port: int) -> None:
    eventually(lambda: running() == {"busy": 1, "idle": 0}, "one replica of what must be there, none of what need not")


def test_a_burst_gets_what_the_budget_has_and_another_model_its_part(port: int) -> None:
    with Burst(port, "busy", NUM_CALLERS) as busy:
        whole = {"busy": BUDGET, "idle": 0}
        eventually(lambda: running() == whole, "the whole budget is the busy model's", found=lambda: busy)
        with Burst(port, "idle", NUM_CALLERS) as idle:
            eventually(lambda: running()["idle"] == BUDGET // 2, "both models have half of the budget")
    assert max(busy.most, idle.most) <= BUDGET
    assert busy.failures == idle.failures == []
    eventually(lambda: present() == {"busy": 1, "idle": 0}, "when all is done, they are as they were")


def test_a_change_of_something_else_leaves_the_numbers_alone(port: int) -> None:
    with Burst(port, "busy", NUM_CALLERS) as busy:
        eventually(lambda: running()["busy"] == BUDGET, "the whole budget is used")
        before = {replica["pid"] for name, replica in replicas() if name == "busy"}
        deploy({**ARGS, "limits": {"image_pixels": 1_000_000}}, SLOW)
        assert {replica["pid"] for name, replica in replicas() if name == "busy"} == before
    assert busy.failures == []


def test_while_the_scaler_is_away_numbers_stand_and_then_it_goes_on(port: int) -> None:
    with Burst(port, "busy", NUM_CALLERS) as busy:
        eventually(lambda: running()["busy"] == BUDGET, "the whole budget is used")
        (scaler,) = scalers()
        os.kill(scaler, signal.SIGKILL)
        eventually(lambda: scalers() not in ([], [scaler]), "another scaler")
        assert running()["busy"] == BUDGET
    assert busy.failures == []
    eventually(lambda: present()["busy"] == 1, "the new scaler lets them go")
