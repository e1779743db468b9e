"""What HTTP replicas write for one another in the store that they share: each under a name of its own, so that nothing is lost where two
write at once. Values are sealed with the server's secret. Decides nothing of what is written. All raise `StoreDown`, on any thread.
"""

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cache.store import Store
from pipelines.ingress.kept.kept_values import is_id, opened, sealed

MAX_PROCESSES = 1000
"""Of which anything is read."""
GONE_S = 15.0
"""Who has told nothing for so long is gone, with what ran there; and who could not hear the others for so long goes on without them."""
JsonObject = Mapping[str, Any]
T = TypeVar("T")


class BetweenProcesses:
    """`process`: this one's name, which no other has and none will."""

    def __init__(self, process: str | None = None) -> None:
        self.process = process or secrets.token_hex(12)

    def write(self, store: Store, index: str, document: object, ttl_s: float, salt: str) -> None:
        """As JSON."""
        key = f"{index}:{self.process}"
        store.write(key, sealed(key, json.dumps(document).encode(), salt), ttl_s=ttl_s)
        store.add(index, self.process, ttl_s=ttl_s)

    def read(self, store: Store, index: str, salt: str, meaning: Callable[[JsonObject], T]) -> Mapping[str, T]:
        """What the other processes have written, by process; what is none of theirs is left out."""
        found: dict[str, T] = {}
        for process in [each for each in store.members(index) if is_id(each) and each != self.process][:MAX_PROCESSES]:
            key = f"{index}:{process}"
            stored = store.read(key)
            data = opened(key, stored, salt) if stored is not None else None
            if data is not None:
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError):  # of another version
                    found[process] = meaning(json.loads(data))
        return found
