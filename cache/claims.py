"""Who makes a value that is not there yet: a short claim in its place, so that what two processes want at the same moment is made once.

Decides what a claim is, how long it stands, and what becomes of it. Knows no server and no values.

A claim stands under the value's own key. So one key decides, in one exchange, whether a value is there, is being made, or is for
whoever asks to make (`SET NX`, then `GET`), and the value that is written replaces the claim. A claim is advisory, and sealed by
nothing: whoever waits for one waits for a bounded time, so that a stranger who writes claims can only delay. Whoever makes a value
renews its claim meanwhile; who dies leaves one that runs out.
"""

import threading
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from cache.codec import Arrays
from cache.redis_connection import Command
from cache.tier import UNLABELLED, Label
from cache.write_queue import Write, WriteQueue

CLAIM_S = 3.0
"""How long a claim stands that nobody renews: by so much a process that dies delays the others."""

CLAIM_MS = round(CLAIM_S * 1000)
RENEW_S = 0.75
"""A claim bears a few renewals that come late: an event loop that is held up, a write that waits behind a large one."""

MARK = b"triptych claim\0"
"""No value's bytes begin so."""

_MAKING, _NOT_KEPT = b"making\0", b"not kept\0"


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """That this process makes the value of `key`. Each is equal to itself alone."""

    key: str


@dataclass(frozen=True, slots=True)
class BeingMade:
    """Somebody else makes the value, or is just done: to be asked for again."""


@runtime_checkable
class ClaimingTier(Protocol):
    """A tier that several processes share, and in which they claim what they make."""

    def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Arrays | Claim | BeingMade | None:
        """The value; or a claim, where it is for the caller to make it, for others will wait; None: it can't be claimed, or is not
        kept by whoever makes it. One round trip. Who is given a claim renews it, and puts the value, lets go, or says that it is not
        kept."""
        ...

    def renew(self) -> None:
        """All claims that were given out and have not ended. Never waits."""
        ...

    def let_go(self, claim: Claim) -> None:
        """It was not made: whoever waits may. Without effect where the claim has ended. Never waits."""
        ...

    def not_kept(self, claim: Claim) -> None:
        """It was made and could not be put: whoever waits makes it too, and waits for nobody. Without effect where the claim has
        ended, as where the value was put. Never waits."""
        ...


def is_claim(data: object) -> TypeGuard[bytes]:
    """Of what is stored under a value's key: whether it is no value, but a claim."""
    return isinstance(data, bytes) and data.startswith(MARK)


class HeldClaims:
    """A process's claims in one store, and what is written there of them: in the same line as the values, so that what is offered
    later for a key is written later. From any thread. `owner`: for whoever looks at a claim in the store."""

    def __init__(self, writes: WriteQueue, owner: str) -> None:
        self._writes, self._lock = writes, threading.Lock()
        self._held: set[Claim] = set()
        self._making = MARK + _MAKING + owner.encode()

    def bid(self, stored_key: str) -> Command:
        """Claims a key, where nothing is stored under it."""
        return ("SET", stored_key, self._making, "NX", "PX", CLAIM_MS)

    def outcome(self, key: str, bid: object, stored: object) -> Claim | BeingMade | None:
        """`bid`, `stored`: the replies to the command that claims, and to a GET right behind it that found no value."""
        if isinstance(bid, Exception) or isinstance(stored, Exception):
            return None
        if bid is not None:
            return self._hold(key)
        is_made = not stored or (is_claim(stored) and not stored.startswith(MARK + _NOT_KEPT))
        return BeingMade() if is_made else None

    def renew(self) -> None:
        with self._lock:  # or one might be offered behind the value
            for claim in self._held:
                self._writes.offer(Write(claim.key, self._making, CLAIM_MS))

    def let_go(self, claim: Claim) -> None:
        if self._end(claim):
            self._writes.offer(Write(claim.key, None))

    def not_kept(self, claim: Claim) -> None:
        if self._end(claim):
            self._writes.offer(Write(claim.key, MARK + _NOT_KEPT, CLAIM_MS))

    def put(self, write: Write) -> bool:
        """Offers a value. Where there is room for it, it ends the claims to its key."""
        with self._lock:
            accepted = self._writes.offer(write)
            if accepted:
                self._held = {claim for claim in self._held if claim.key != write.key}
            return accepted

    def _hold(self, key: str) -> Claim:
        claim = Claim(key)
        with self._lock:
            self._held.add(claim)
        return claim

    def _end(self, claim: Claim) -> bool:
        """Whether it had not ended before."""
        with self._lock:
            was_held = claim in self._held
            self._held.discard(claim)
            return was_held
