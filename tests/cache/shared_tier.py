"""A tier that several processes share and claim in, without Redis: each process has a `SharedTier` over one `Store`."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cache.claims import CLAIM_S, BeingMade, Claim
from cache.codec import Arrays
from cache.tier import UNLABELLED, Label, TierStats
from tests.stages.fakes import Gate


@dataclass
class Store:
    """`now`: the test's to move; claims run out by it. `claims`: by key, whose it is (None: of whoever does not keep what it makes), and
    until when."""

    now: float = 0.0
    values: dict[str, Arrays] = field(default_factory=dict)
    claims: dict[str, tuple[Claim | None, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedTier:
    """`get_gate`: before every look-up; `keeps`: or every value is refused; `answer_s`: so much later it is after each `get_or_claim`."""

    name = "redis"

    def __init__(self, store: Store) -> None:
        self.store, self.keeps, self.answer_s = store, True, 0.0
        self.get_gate = Gate()
        self._held: dict[Claim, float] = {}  # until when each stands

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        self.get_gate.pass_through()
        with self.store.lock:
            return {key: self.store.values[key] for key in keys if key in self.store.values}

    def holds(self, keys: Sequence[str]) -> set[str]:
        return set(self.get_many(keys))

    def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Arrays | Claim | BeingMade | None:
        found = self.get_many([key])
        self.store.now += self.answer_s
        if found:
            return found[key]
        with self.store.lock:
            claim, until = self.store.claims.get(key, (None, 0.0))
            if until > self.store.now:
                return BeingMade() if claim is not None else None
            mine = Claim(key)
            self._claim(key, mine)
            return mine

    def renew(self) -> None:
        with self.store.lock:
            for claim in filter(self._stands, list(self._held)):
                self._claim(claim.key, claim)

    def let_go(self, claim: Claim) -> None:
        with self.store.lock:
            if self._stands(claim):
                self.store.claims.pop(claim.key, None)
            self._held.pop(claim, None)

    def not_kept(self, claim: Claim) -> None:
        with self.store.lock:
            if self._stands(claim):
                self._claim(claim.key, None)
            self._held.pop(claim, None)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        if self.keeps:
            with self.store.lock:
                self.store.values.update(values)
                self._held = {claim: until for claim, until in self._held.items() if claim.key not in values}
                for key in values:
                    self.store.claims.pop(key, None)

    def delete(self, keys: Sequence[str]) -> None:
        with self.store.lock:
            for key in keys:
                self.store.values.pop(key, None)
                self.store.claims.pop(key, None)

    def stats(self) -> TierStats:
        return TierStats()

    def close(self) -> None: ...

    def _claim(self, key: str, claim: Claim | None) -> None:
        until = self.store.now + CLAIM_S
        self.store.claims[key] = claim, until
        if claim is not None:
            self._held[claim] = until

    def _stands(self, claim: Claim) -> bool:
        return self._held.get(claim, 0.0) > self.store.now
