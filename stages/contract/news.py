"""What a replica tells whoever routes: of each of its stages, how much it has to do, how fast it is, and what it holds.

Decides what is told; who is told, how often, and what becomes of old news is for `pipelines/routing/`. Pure; small enough to go with
every reply.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stages.contract.cost import Part, Speed
from stages.contract.message import ALL, message
from stages.contract.work import NO_WORK, Work


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class StageNews:
    """Of one stage in one replica. `device`: the model's name ("cpu", "NVIDIA L4"). `outstanding`: what is left to do, of all
    `num_items` that wait or run (not of those that wait for inputs), `later` of the `num_later` among them that a newcomer of priority 0
    goes before. `failing`: which part of its latest items it failed by its own
    fault, 0 to 1. `holds`: hints (`hint`) of names whose results are at hand there, the latest ones only. `arrived`, `num_arrived`,
    `num_left`: what has come to the engine since it started, and how many have left it. `number`: later news of the same replica has a
    higher one. `tenants`: what those who have most have of what is outstanding, by `tenant_hint`; nothing where tenants are not told apart.
    `is_shared`: its device's time is also the other stages' of this replica that compute on the same one; `speed` is then as it would be
    alone."""

    stage: str
    replica: str
    device: str
    dtype: str
    speed: Speed | None
    outstanding: Work
    num_items: int
    failing: float = 0.0
    holds: frozenset[int] = frozenset()
    arrived: Work = NO_WORK
    num_arrived: int = 0
    num_left: int = 0
    number: int = 0
    is_shared: bool = False
    later: Work = NO_WORK
    num_later: int = 0
    tenants: Mapping[int, Part] = field(default_factory=dict)


@message(droppable=[ALL])
@dataclass(frozen=True, slots=True)
class Hints:
    """What of an item may be at hand somewhere, by hints. `chain`: of its beginnings, the shortest first; the longest that is held counts
    for all of them. It saves `each` as many times as `lengths` says of it (empty: 1, 2, 3 and so on). A result that has a name is a chain
    of one, which saves all its work. `parts`: of results of other stages that it needs; `part_s`: what having one saves. For people, `each`
    is `each_units` (None: its amount) of a `unit`. `is_kept_by_name`: they are hints of names of pages, of which replicas tell those that
    they have; else of beginnings whose stage holds them once it has begun."""

    chain: tuple[int, ...] = ()
    each: Work = NO_WORK
    parts: tuple[int, ...] = ()
    part_s: float = 0.0
    unit: str = ""
    lengths: tuple[int, ...] = ()
    each_units: float | None = None
    is_kept_by_name: bool = False

    def length(self, place: int) -> int:
        """How many times `each` that beginning saves."""
        return self.lengths[place] if self.lengths else place + 1


NO_HINTS = Hints()


def sparse(chain: Sequence[int]) -> tuple[int, ...]:
    """Enough of a chain to find about how much of it another has in common: its beginnings of 1, 2, 4, 8 and so on, and all of it."""
    if not chain:
        return ()
    powers = [2**power - 1 for power in range((len(chain)).bit_length())]
    return tuple(dict.fromkeys((*(chain[at] for at in powers if at < len(chain)), chain[-1])))


def hint(name: str) -> int:
    """Eight bytes of a name: enough to choose where to ask, never to tell two results apart."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
