"""Which replica a result's name belongs to, so that everyone who wants it asks the same one.

Decides by rendezvous hashing (Thaler and Ravishankar, 1998): every replica has a weight for every name, and the heaviest owns it. So
whoever sees the same replicas finds the same owner, without a table; a replica that comes takes only what it owns from then on, and
one that goes leaves each other replica its part of what it owned. Pure; knows no requests and no cluster.

A weight mixes eight bytes of the name with eight of the replica's, which are digests both, so that half of SplitMix64's finalizer (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", 2014) is enough; in numpy where there are many replicas.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages.contract.news import hint

_BITS = 2**64 - 1
_FIRST, _SECOND, _HALF = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 32
_FIRST_ARRAY, _SECOND_ARRAY, _HALF_ARRAY = (np.array(one, np.uint64) for one in (_FIRST, _SECOND, _HALF))


def seed_of(replica: str) -> int:
    return hint(replica)


def weight(name: int, seed: int) -> int:
    """`name`: a hint. 64 bits."""
    mixed = ((name ^ seed) * _FIRST) & _BITS
    return ((mixed ^ (mixed >> _HALF)) * _SECOND) & _BITS


class Owners:
    """Of names, among these replicas, by their seeds. For one thread at a time: it weighs where it has weighed before."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = np.array(seeds, np.uint64)
        self._weights, self._shifted = np.empty_like(self._seeds), np.empty_like(self._seeds)
        self._name = np.zeros((), np.uint64)

    def of(self, name: int, how_many: int = 1) -> Sequence[int]:
        """Places among the seeds: of the owner, and of those that would own it next, at most so many."""
        heavy, found = self.weights(name), []
        for _ in range(min(how_many, len(heavy))):
            found.append(int(heavy.argmax()))
            heavy[found[-1]] = 0
        return found

    def weights(self, name: int) -> NDArray[np.uint64]:
        """[replicas], each as `weight` says, until the next name is asked for."""
        self._name[()] = name
        mixed, shifted = self._weights, self._shifted
        np.bitwise_xor(self._seeds, self._name, out=mixed)
        np.multiply(mixed, _FIRST_ARRAY, out=mixed)
        np.right_shift(mixed, _HALF_ARRAY, out=shifted)
        np.bitwise_xor(mixed, shifted, out=mixed)
        np.multiply(mixed, _SECOND_ARRAY, out=mixed)
        return mixed
