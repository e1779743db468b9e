"""What a tier counts, and by which kind of value.

Knows no tier.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cache.tier import KindStats

_BY_KIND = frozenset(field.name for field in fields(KindStats))


class Accounts:
    """From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: Counter[str] = Counter()
        self._of_kind: dict[str, Counter[str]] = {}

    def count(self, kind: str, **amounts: int) -> None:
        """By the names of `TierStats`' and `KindStats`' fields. `kind` "": of none."""
        with self._lock:
            self._all.update(amounts)
            if kind:
                own = self._of_kind.setdefault(kind, Counter())
                own.update({name: amount for name, amount in amounts.items() if name in _BY_KIND})

    def total(self, name: str) -> int:
        with self._lock:
            return self._all[name]

    def totals(self) -> dict[str, Any]:
        """By the names of `TierStats`' fields."""
        with self._lock:
            return {name: amount for name, amount in self._all.items() if name != "put_bytes"}

    def kinds(self) -> Mapping[str, KindStats]:
        with self._lock:
            return {kind: KindStats(**counts) for kind, counts in self._of_kind.items()}
