"""What large bodies leave goes back to the system."""

import platform
import subprocess
import sys

import pytest

FLOOD = """
import sys, threading
from pipelines.ingress.body.large_blocks import return_large_blocks

def anonymous_mib():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024

if sys.argv[1] == "yes":
    assert return_large_blocks()
before, kept = anonymous_mib(), []

def read():
    pieces = []
    for number in range(4000):
        pieces.append(bytes(65536))
        if number % 50 == 0:
            kept.append(bytes(1000))  # what is not freed with them, between them

threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(anonymous_mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is glibc's")
def test_what_was_freed_is_not_kept() -> None:
    kept = {
        asked: float(subprocess.run([sys.executable, "-c", FLOOD, asked], check=True, capture_output=True, text=True).stdout)
        for asked in ("yes", "no")
    }
    assert kept["yes"] < 32
    assert kept["no"] > 2 * kept["yes"]
