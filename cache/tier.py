"""What every tier of the cache promises.

Knows no particular store. The promises that a signature can't make:

- *Advisory.* Nothing may depend on a value being there. Whatever goes wrong inside a tier (unreachable, full, corrupt) is a
  miss, a counter and at most a bounded delay; no method raises for it. A value put is a value that may be found, now or a
  little later.
- *Ownership.* The arrays given to `put_many` stay the caller's: a tier keeps nothing that the caller could still change. The
  arrays from `get_many` are read-only and stay valid for as long as the caller holds them, evicted or not; evicting is
  always safe.
- *Validity.* A value found under a key is bit for bit the value put under it and under the same seal, and has neither NaN nor
  infinity: a value that doesn't check is missed, and deleted (whoever could forge it could delete it, too).
- *Size.* A value may be refused for its size, or because the tier can't keep up; then it is counted as dropped. A value that
  can't be stored at all (not numeric, not finite) is counted as an error.
- *Threads.* Every method may be called from any thread, at any time, `close` included (afterwards everything is a miss).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cache.codec import Arrays


@dataclass(frozen=True, slots=True)
class KindStats:
    """Of one kind of value (`Label.kind`), as in `TierStats`. `put_bytes`: of the accepted values' arrays."""

    hits: int = 0
    misses: int = 0
    puts: int = 0
    put_bytes: int = 0
    dropped: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counters since the tier was made, and what it holds now.

    `puts` counts accepted values, `dropped` refused or lost ones (too big, no room in the write queue, store unreachable),
    `errors` failed operations, `corrupt` values that didn't check. `bytes`, `entries`, `evictions` are the store's own: a
    store shared by several tier objects tells each of them the same. `is_down`: nobody is asking the store now, for it didn't
    answer; `opened`: how often that has begun. `kinds`: what was counted under a label, by its kind.
    """

    hits: int = 0
    misses: int = 0
    puts: int = 0
    dropped: int = 0
    evictions: int = 0
    errors: int = 0
    corrupt: int = 0
    bytes: int = 0
    entries: int = 0
    is_down: bool = False
    opened: int = 0
    kinds: Mapping[str, KindStats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Label:
    """What is said of values beside their keys. `kind`: what they are ("vision_features"): how long they live, and where they are
    counted. `seal`: a secret of whoever they are for; what was not written under it is not believed ("": it is for anyone)."""

    kind: str = ""
    seal: str = field(default="", repr=False)


UNLABELLED = Label()


class Tier(Protocol):
    """A place where values are remembered. Synchronous."""

    @property
    def name(self) -> str:
        """How receipts and metrics call it: "memory", "redis"."""
        ...

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Arrays]:
        """What is found; keys that are missing are missing. One round trip. As to who is forgotten first, the first of the keys was
        used last: of what is asked for together, the beginning is of use without the end, and not the other way round."""
        ...

    def holds(self, keys: Sequence[str]) -> set[str]:
        """Of these keys, those that would be found now: a hint, without fetching, counted nowhere. One round trip. What is asked
        about may count as used, as by `get_many`."""
        ...

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        """As to who is forgotten first, as `get_many`."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets; unknown keys are fine."""
        ...

    def stats(self) -> TierStats: ...

    def close(self) -> None:
        """Ends what the tier started. Idempotent."""
        ...
