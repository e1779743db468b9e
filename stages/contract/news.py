"""What a replica tells whoever routes: of each of its stages, how much it has to do, how fast it is, and what it holds.

Decides what is told; who is told, how often, and what becomes of old news is for `pipelines/routing/`. Pure; small enough to go with
every reply.
"""

import hashlib
from dataclasses import dataclass

from stages.contract.cost import Speed
from stages.contract.work import Work


@dataclass(frozen=True, slots=True)
class StageNews:
    """Of one stage in one replica. `device`: the model's name ("cpu", "NVIDIA L4"). `outstanding`: what is left to do, of all
    `num_items` that wait or run (not of those that wait for inputs). `failing`: which part of its latest items it failed by its own
    fault, 0 to 1. `holds`: hints (`hint`) of names whose results are at hand there, the latest ones only. `number`: later news of the
    same replica has a higher one."""

    stage: str
    replica: str
    device: str
    dtype: str
    speed: Speed | None
    outstanding: Work
    num_items: int
    failing: float = 0.0
    holds: frozenset[int] = frozenset()
    number: int = 0


def hint(name: str) -> int:
    """Eight bytes of a name: enough to choose where to ask, never to tell two results apart."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
