"""What a replica does about a load, or a call on its event loop, that never ends: in a process of its own. And
what the embedded Redis says at its start."""

import asyncio
import subprocess
import sys

import pytest

from pipelines.cluster.replica import RedisReplica, time_limit

HANGS = """
import threading
from pipelines.cluster.replica import time_limit
with time_limit(0.05, "loading m.llm", "models.*.*.max_load_s"):
    threading.Event().wait(60)
print("it ended")
"""

HOLDS_UP = """
import asyncio, threading
from pipelines.cluster.loop_watch import LoopWatch
from pipelines.cluster.replica import _end_process

def check_that_never_ends():
    threading.Event().wait(60)

async def run():
    watch = LoopWatch(0.05, _end_process, period_s=0.01, grace_s=0.05)
    check_that_never_ends()

asyncio.run(run())
print("it ended")
"""


def test_a_load_that_hangs_ends_its_process_and_says_why() -> None:
    process = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert process.stdout == ""
    assert "loading m.llm has not ended within 0.05 s (models.*.*.max_load_s)" in process.stderr


def test_one_that_ends_in_time_ends_nothing() -> None:
    with time_limit(3600, "loading", "models.*.*.max_load_s"):
        pass


def test_a_call_that_holds_up_the_event_loop_ends_the_process_and_is_named() -> None:
    process = subprocess.run([sys.executable, "-c", HOLDS_UP], capture_output=True, text=True, timeout=60, check=False)
    assert process.returncode == 1
    assert process.stdout == ""
    assert "the event loop has stopped turning" in process.stderr
    assert "check_that_never_ends" in process.stderr


@pytest.mark.parametrize(("num_nodes", "told"), [(0, False), (1, False), (3, True)])
def test_an_embedded_redis_on_a_cluster_of_several_nodes_says_what_it_cannot_do(
    num_nodes: int, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipelines.cluster.running_serve.num_nodes", lambda: num_nodes)
    replica = RedisReplica(f"test-{num_nodes}", 8 * 2**20)
    asyncio.run(replica.check_health())
    del replica
    assert ("which only processes on that node reach" in caplog.text) == told
    assert ("3 nodes" in caplog.text) == told
