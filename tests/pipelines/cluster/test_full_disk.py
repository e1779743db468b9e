"""A log that has no room for another line costs nobody a request."""

import os
import subprocess
import sys

import pytest

LOGS = """
import logging, sys
from pipelines.cluster.state.metrics_table import MetricsTable  # as a replica's class comes in before its first line
from ray.serve._private.logging_utils import StreamToLogger

log = logging.getLogger("a replica")
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(logging.FileHandler("/dev/full"))
told, sys.stderr = sys.stderr, StreamToLogger(log, logging.INFO, sys.stderr)  # as Serve does with RAY_SERVE_LOG_TO_STDERR=0
log.info("a line")
print("another", file=sys.stderr)
print("still here", file=told)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file that takes nothing is Linux's")
def test_a_line_of_a_replica_s_log_that_finds_no_room_is_dropped() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "still here\n")
