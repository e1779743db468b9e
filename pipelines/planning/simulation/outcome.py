"""How a simulated call ended, and who is told. Knows nothing else."""

from collections.abc import Callable
from enum import IntEnum


class Outcome(IntEnum):
    DONE = 0
    LATE = 1  # past its deadline
    REFUSED = 2  # before anything was done for it, or as a line was full
    LOST = 3  # with replicas that died, or by one that failed it


Told = Callable[[Outcome, float], None]
"""How it ended, and when its first step was done (infinite: none was)."""

Answered = Callable[[Outcome, float, str], None]
"""The same, and which pool it was in ("": it never got there)."""
