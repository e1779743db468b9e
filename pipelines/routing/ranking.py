"""Which replica a result's name belongs to, so that everyone who wants it asks the same one.

Decides by rendezvous hashing (Thaler and Ravishankar, 1998): every replica has a weight for every name, and the heaviest owns it. So
whoever sees the same replicas finds the same owner, without a table; a replica that comes takes only what it owns from then on, and
one that goes leaves each other replica its part of what it owned. Pure; knows no requests and no cluster.
"""

import hashlib
from collections.abc import Collection, Mapping


def owner(name: str, replicas: Collection[str]) -> str:
    """Raises `ValueError` where there are none."""
    return max(replicas, key=lambda replica: (_weight(name, replica), replica))


def owner_unless_busy(name: str, ongoing: Mapping[str, int | None], max_ahead: int) -> str | None:
    """The owner; None where it has over `max_ahead` more requests in hand than another. `ongoing`: by replica, as far as that is
    known: of whom it isn't, nothing is supposed."""
    first = owner(name, ongoing)
    own = ongoing[first]
    known = [count for count in ongoing.values() if count is not None]
    return None if own is not None and own > min(known) + max_ahead else first


def _weight(name: str, replica: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{replica}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
