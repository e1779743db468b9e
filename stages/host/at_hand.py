"""What of all that has been here is in this process's memory still: results and pages, by their names.

Decides under which keys a result may be remembered: one for each of its known makers. Asks memory only, never a far tier: what is there is
everyone's. Knows no stages and no routing.
"""

from collections.abc import Collection, Mapping, Sequence

from cache.tiered import TieredCache
from stages.host.makers import Maker
from stages.host.remembered.origin import remembered_as


class AtHand:
    """`makers`: by stage, as they are known by then; `results` and `pages`: the caches of either. Any thread, but for `keys_of`."""

    def __init__(self, makers: Mapping[str, Maker], results: TieredCache, pages: TieredCache | None) -> None:
        self._makers, self._remembers = makers, bool(results.near().tier_names)
        self._memories = [cache.near() for cache in (results, pages) if cache is not None]

    def keys_of(self, stage: str, name: str) -> Sequence[str]:
        """Of a result of this stage; none where no memory is for results. On the event loop."""
        maker = self._makers.get(stage) if self._remembers else None
        return [remembered_as(name, origin.key) for origin in maker.origins()] if maker is not None else []

    def of(self, keys: Sequence[str]) -> Collection[str]:
        """Those that are in memory."""
        found: set[str] = set()
        for memory in self._memories:
            found.update(memory.where(keys))
        return found
