"""Several tiers as one cache: fast ones above slow ones.

Decides where a value is looked for, and that what is found below is remembered above. Knows no particular tier.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache.claims import BeingMade, Claim, ClaimingTier
from cache.codec import Arrays, size_of
from cache.tier import UNLABELLED, Label, Tier, TierStats

MEMORY = "memory"
"""The name of the tier that costs no way to ask."""


@dataclass(frozen=True, slots=True)
class Found:
    """A value, the tier that had it ("memory", "redis"), and the size of its arrays in bytes."""

    value: Arrays
    tier: str
    bytes: int


class TieredCache:
    """Looks from the first tier to the last; owns its tiers. As advisory, and as safe between threads, as they are.

    Without tiers it remembers nothing, and everything else works as before.
    """

    def __init__(self, tiers: Sequence[Tier] = ()) -> None:
        self._tiers = tuple(tiers)
        self._claiming = next((tier for tier in self._tiers if isinstance(tier, ClaimingTier)), None)

    @property
    def tier_names(self) -> tuple[str, ...]:
        """From the first looked in to the last. Asks no tier anything."""
        return tuple(tier.name for tier in self._tiers)

    def get(self, key: str, label: Label = UNLABELLED) -> Found | None:
        return self.get_many([key], label).get(key)

    def get_many(self, keys: Sequence[str], label: Label = UNLABELLED) -> dict[str, Found]:
        """What is found, in the order of `keys`. A tier is asked only for what no tier above it has, in one call."""
        found: dict[str, Found] = {}
        missing = list(dict.fromkeys(keys))
        for depth, tier in enumerate(self._tiers):
            if not missing:
                break
            values = tier.get_many(missing, label)
            if values:
                for above in self._tiers[:depth]:
                    above.put_many(values, label)
            found.update((key, Found(value, tier.name, size_of(value))) for key, value in values.items())
            missing = [key for key in missing if key not in found]
        return {key: found[key] for key in dict.fromkeys(keys) if key in found}

    def get_or_claim(self, key: str, label: Label = UNLABELLED) -> Found | Claim | BeingMade | None:
        """For whoever would make it: the value, or a claim to it (`ClaimingTier.get_or_claim`); None: it is to be made unclaimed. A
        tier below the one in which it is claimed is not asked."""
        for depth, tier in enumerate(self._tiers):
            answer = tier.get_or_claim(key, label) if tier is self._claiming else tier.get_many([key], label).get(key)
            if isinstance(answer, Claim | BeingMade):
                return answer
            if answer is not None:
                for above in self._tiers[:depth]:
                    above.put_many({key: answer}, label)
                return Found(answer, tier.name, size_of(answer))
        return None

    def renew_claims(self) -> None:
        """As `let_go` and `not_kept`, no more than told to a tier, on any thread."""
        if self._claiming is not None:
            self._claiming.renew()

    def let_go(self, claim: Claim) -> None:
        if self._claiming is not None:
            self._claiming.let_go(claim)

    def not_kept(self, claim: Claim) -> None:
        if self._claiming is not None:
            self._claiming.not_kept(claim)

    def where(self, keys: Sequence[str]) -> dict[str, str]:
        """key -> the first tier that holds it, without fetching it: a hint."""
        found: dict[str, str] = {}
        for tier in self._tiers:
            found.update(dict.fromkeys(tier.holds([key for key in keys if key not in found]), tier.name))
        return found

    def put(self, key: str, value: Arrays, label: Label = UNLABELLED) -> None:
        self.put_many({key: value}, label)

    def put_many(self, values: Mapping[str, Arrays], label: Label = UNLABELLED) -> None:
        """Remembers in every tier."""
        for tier in self._tiers:
            tier.put_many(values, label)

    def put_in_memory(self, key: str, value: Arrays, label: Label = UNLABELLED) -> None:
        """Remembers in this process alone: what is shared already, or is for others to share."""
        for tier in self._tiers:
            if tier.name == MEMORY:
                tier.put_many({key: value}, label)

    def near(self) -> "TieredCache":
        """What of it costs no way to ask: a view, which is not to be closed."""
        return TieredCache([tier for tier in self._tiers if tier.name == MEMORY])

    @property
    def is_far(self) -> bool:
        """Whether asking it may take a while, and is no work for an event loop."""
        return any(tier.name != MEMORY for tier in self._tiers)

    def delete(self, keys: Sequence[str]) -> None:
        """Forgets in every tier, lowest first, so that nothing is promoted again meanwhile."""
        for tier in reversed(self._tiers):
            tier.delete(keys)

    def stats(self) -> dict[str, TierStats]:
        """Counters of every tier, by its name."""
        return {tier.name: tier.stats() for tier in self._tiers}

    def close(self) -> None:
        for tier in self._tiers:
            tier.close()
