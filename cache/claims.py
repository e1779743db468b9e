"""Who makes a value that is not there yet: a short claim in its place, so that what two processes want at the same moment is made once.

Decides what a claim is, how long it stands, and what becomes of it. Knows no server and no values.

A claim stands under the value's own key. So one key decides, in one exchange, whether a value is there, is being made, or is for
whoever asks to make (`SET NX`, then `GET`), and the value that is written replaces the claim. A claim is advisory, and sealed by
nothing: whoever waits for one waits for a bounded time, so that a stranger who writes claims can only delay. Whoever makes a value
renews its claim meanwhile; who dies leaves one that runs out. A claim that may have run out is somebody else's to make by now, or
their value stands in its place: from then on, its first owner writes nothing there but the value.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard, runtime_checkable

from cache.codec import Arrays
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
        """All claims that were given out, have not ended, and still stand. Never waits."""
        ...

    def let_go(self, claim: Claim) -> None:
        """It was not made: whoever waits may. Without effect where the claim has ended or run out. Never waits."""
        ...

    def not_kept(self, claim: Claim) -> None:
        """It was made and could not be put: whoever waits makes it too, and waits for nobody. Without effect where the claim has
        ended, as where the value was put, or run out. Never waits."""
        ...


def is_claim(data: object) -> TypeGuard[bytes]:
    """Of what is stored under a value's key: whether it is no value, but a claim."""
    return isinstance(data, bytes) and data.startswith(MARK)


@dataclass(slots=True, eq=False)
class _Standing:
    """Until when a claim stands at least: for CLAIM_S from before it was last sent."""

    until: float


@dataclass(frozen=True, slots=True)
class _ClaimWrite(Write):
    """What is to be written in place of a claim, as long as it stands."""

    standing: _Standing = field(kw_only=True)


class HeldClaims:
    """A process's claims in one store, and what is written there of them: in the same line as the values, so that what is offered
    later for a key is written later. Whoever carries the writes out asks which are still `due`, and says what was `written`. From any
    thread. `owner`: for whoever looks at a claim in the store. `clock`: in seconds."""

    def __init__(self, writes: WriteQueue, owner: str, clock: Callable[[], float]) -> None:
        self._writes, self._clock, self._lock = writes, clock, threading.Lock()
        self._held: dict[Claim, _Standing] = {}
        self._making = MARK + _MAKING + owner.encode()

    def bid(self, stored_key: str) -> tuple[str | bytes | int, ...]:
        """Claims a key, where nothing is stored under it."""
        return ("SET", stored_key, self._making, "NX", "PX", CLAIM_MS)

    def outcome(self, key: str, bid: object, stored: object, *, sent_at: float) -> Claim | BeingMade | None:
        """`bid`, `stored`: the replies to the command that claims, and to a GET right behind it that found no value."""
        if isinstance(bid, Exception) or isinstance(stored, Exception):
            return None
        if bid is not None:
            return self._hold(key, sent_at)
        is_made = not stored or (is_claim(stored) and not stored.startswith(MARK + _NOT_KEPT))
        return BeingMade() if is_made else None

    def renew(self) -> None:
        with self._lock:  # or one might be offered behind the value
            for claim, standing in self._held.items():
                self._writes.offer(_ClaimWrite(claim.key, self._making, CLAIM_MS, standing=standing))

    def let_go(self, claim: Claim) -> None:
        self._end(claim, None)

    def not_kept(self, claim: Claim) -> None:
        self._end(claim, MARK + _NOT_KEPT)

    def put(self, write: Write) -> bool:
        """Offers a value. Where there is room for it, it ends the claims to its key."""
        with self._lock:
            accepted = self._writes.offer(write)
            if accepted:
                self._held = {claim: standing for claim, standing in self._held.items() if claim.key != write.key}
            return accepted

    def due(self, writes: Sequence[Write]) -> list[Write]:
        """Without what is in place of a claim that may have run out since: asked right before they are sent."""
        now = self._clock()
        return [write for write in writes if not isinstance(write, _ClaimWrite) or now < write.standing.until]

    def written(self, write: Write, *, sent_at: float) -> None:
        """The store has it."""
        if isinstance(write, _ClaimWrite):
            write.standing.until = sent_at + CLAIM_S

    def _hold(self, key: str, sent_at: float) -> Claim:
        claim = Claim(key)
        with self._lock:
            self._held[claim] = _Standing(sent_at + CLAIM_S)
        return claim

    def _end(self, claim: Claim, data: bytes | None) -> None:
        """Once. `data`: what stands there instead, for as long as a claim does."""
        with self._lock:
            standing = self._held.pop(claim, None)
        if standing is not None:
            self._writes.offer(_ClaimWrite(claim.key, data, CLAIM_MS, standing=standing))
