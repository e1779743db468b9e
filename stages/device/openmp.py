"""How the threads of one process share a CPU: how many compute, how they wait for each other, and which of them start others.

Every thread that computes with torch on a CPU has a team of OpenMP threads, kept for as long as it lives. GNU's OpenMP waits
patiently (spinning, so that the next of a step's thousands of small operators starts at once) only while all teams together have
no more threads than the machine has cores; beyond that every operator pays for being woken, and a decoding step of the LLM takes
half as long again (`python -m benchmarks.decode_step`). So only the threads that run stages may keep a team.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

SPIN_COUNT = 4_000  # turns; some tens of microseconds


def wait_briefly() -> None:
    """Before torch is loaded, which is when OpenMP reads its variables.

    By default waiting threads spin so long that on a busy machine a step takes ten times its time; not at all would cost a
    quiet one a third. With the policy `active` they spin as long where there are more threads than cores (several stages in a
    process, threads that prepare).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    os.environ.setdefault("OMP_WAIT_POLICY", "active")


def limit_threads(count: int) -> None:
    """Computes with `count` threads from now on. The CPU is shared by every stage on the machine: nobody may take all of it by
    default, nor keep it while waiting."""
    wait_briefly()
    import torch

    torch.set_num_threads(count)


def on_passing_thread(compute: Callable[[], T]) -> T:
    """What `compute` returns or raises, on a thread that takes its team along when it ends: for loading, before the stage's own
    thread takes over."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(compute())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="loading", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()
