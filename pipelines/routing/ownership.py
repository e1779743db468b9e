"""Which replica a result's name belongs to, so that everyone who wants it asks the same one.

Decides by rendezvous hashing (Thaler and Ravishankar, 1998): every replica has a weight for every name, and the heaviest owns it. So
whoever sees the same replicas finds the same owner, without a table; a replica that comes takes only what it owns from then on, and
one that goes leaves each other replica its part of what it owned. Pure; knows no requests and no cluster.

A weight mixes eight bytes of the name with eight of the replica's (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014: SplitMix64's finalizer), in numpy where there are many replicas: a thousand are as quick as a dozen.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.contract.news import hint

_BITS = 2**64 - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def seed_of(replica: str) -> int:
    return hint(replica)


def weight(name: int, seed: int) -> int:
    """`name`: a hint. 64 bits."""
    mixed = name ^ seed
    mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _BITS
    mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _BITS
    return mixed ^ (mixed >> 31)


def weights(name: int, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[replicas] -> [replicas], each as `weight` says."""
    mixed = seeds ^ np.uint64(name)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def owners(name: int, seeds: NDArray[np.uint64], how_many: int = 1) -> Sequence[int]:
    """Places in `seeds`: of the owner, and of those that would own it next, at most so many."""
    heavy, found = weights(name, seeds), []
    for _ in range(min(how_many, len(seeds))):
        found.append(int(heavy.argmax()))
        heavy[found[-1]] = 0
    return found
