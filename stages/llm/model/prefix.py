"""Which slot a request gets, and how much of its prompt that slot, or another, already holds. Pure; knows no tensors.

A slot keeps its last occupant's keys and values until another request needs it, so a conversation's next turn, or a prompt
with a shared beginning, starts where the known part ends. What was computed under one salt is never used under another.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Occupant:
    """Who is, or was last, in a slot. The slot holds keys and values of the first `num_computed` of `tokens`."""

    salt: str
    tokens: list[int]
    images: tuple[tuple[int, int, str], ...] = ()  # offset, length, digest
    num_computed: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """`num_reused` tokens of the prompt need not be computed; where `copy_from` is a slot, they must be copied from there."""

    slot: int
    num_reused: int = 0
    copy_from: int | None = None


@dataclass(slots=True)
class SlotBook:
    """Who is where. A free slot may still hold its last occupant; the one freed longest ago is given away first."""

    num_slots: int
    _free: OrderedDict[int, None] = field(init=False)
    _occupants: dict[int, Occupant] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._free = OrderedDict.fromkeys(range(self.num_slots))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def place(self, newcomer: Occupant) -> Placement:
        """Takes a free slot (there must be one) for `newcomer`, whose `num_computed` is set to what can be reused."""
        donor, reused = self._longest_match(newcomer)
        if donor is not None and donor in self._free and self._may_be_overwritten(donor, reused):
            placement = Placement(donor, reused)
        else:
            placement = Placement(next(iter(self._free)), reused, donor)
            if placement.slot == donor:
                placement = Placement(donor, reused)
        del self._free[placement.slot]
        newcomer.num_computed = reused
        self._occupants[placement.slot] = newcomer
        return placement

    def release(self, slot: int) -> None:
        """The slot may be given away; until then what it holds may be reused."""
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """What the slot holds is not to be trusted."""
        self._occupants.pop(slot, None)

    def check_integrity(self) -> None:
        """Raises RuntimeError where the book contradicts itself."""
        if not set(self._free) <= set(range(self.num_slots)) or any(
            occupant.num_computed > len(occupant.tokens) for occupant in self._occupants.values()
        ):
            raise RuntimeError("the slot book contradicts itself")

    def _may_be_overwritten(self, slot: int, reused: int) -> bool:
        """A conversation goes on in its slot; a mere shared beginning is copied, so that both remain."""
        return reused * 2 >= self._occupants[slot].num_computed

    def _longest_match(self, newcomer: Occupant) -> tuple[int | None, int]:
        best: int | None = None
        longest = 0
        for slot, occupant in self._occupants.items():
            length = common_prefix(newcomer, occupant)
            if length > longest:
                best, longest = slot, length
        return best, longest


def common_prefix(newcomer: Occupant, occupant: Occupant) -> int:
    """How many of the newcomer's first tokens `occupant`'s slot holds; at most all but one, because the last must be
    computed."""
    if newcomer.salt != occupant.salt:
        return 0
    limit = min(len(newcomer.tokens) - 1, occupant.num_computed)
    length = next((place for place in range(limit) if newcomer.tokens[place] != occupant.tokens[place]), limit)
    return _before_other_images(length, newcomer.images, occupant.images)


def _before_other_images(length: int, ours: Sequence[tuple[int, int, str]], theirs: Sequence[tuple[int, int, str]]) -> int:
    for image in {*ours} ^ {*theirs}:
        length = min(length, image[0])
    return length
