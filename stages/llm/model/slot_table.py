"""Which slot a request gets, and how much of its prompt that slot, or another, already holds. Pure; knows no tensors.

A slot keeps the keys and values of its last request until another needs it, so a conversation's next turn, or a prompt
with a shared beginning, starts where the known part ends. What was computed under one salt is never used under another.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Grid = tuple[int, int, int]
"""An image's patches in time, height and width, before merging."""

_COMPARED = 128
"""Tokens that are compared at once."""


@dataclass(frozen=True, slots=True)
class SlotImage:
    """An image in a prompt: `length` tokens from `offset`. `name`: of its features. `grid`: where the model's positions depend
    on it, and it is known."""

    offset: int
    length: int
    name: str
    grid: Grid | None = field(default=None, compare=False)

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(slots=True)
class SlotContents:
    """What is, or was last, in a slot: keys and values of the first `num_computed` of `tokens`."""

    salt: str
    tokens: list[int]
    images: tuple[SlotImage, ...] = ()
    num_computed: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """`num_reused` tokens of the prompt need not be computed; where `copy_from` is a slot, they must be copied from there."""

    slot: int
    num_reused: int = 0
    copy_from: int | None = None


class SlotTable:
    """What is where. A free slot still holds what it held last; the one freed longest ago is given away first.

    `find`, `take`, `release`, `forget`: on one thread, the engine's. `num_reusable`, `grid_of` and `resident_names` may be called
    on any thread meanwhile, without a lock: they look at one tuple of contents, which is replaced and never changed; of each
    contents only two things change, the tokens, which are added to, and their number computed, which is read once and never
    counts tokens that are not there. So they tell what was true at some moment, of every slot for itself.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_slots))
        self._contents: tuple[SlotContents | None, ...] = (None,) * num_slots

    @property
    def num_free(self) -> int:
        return len(self._free)

    def find(self, newcomer: SlotContents) -> Placement:
        """The slot that `newcomer` would get now; one must be free."""
        donor, reused = self._longest_match(newcomer)
        if donor is not None and donor in self._free and self._may_be_overwritten(donor, reused):
            return Placement(donor, reused)
        slot = next(iter(self._free))
        return Placement(slot, reused, None if slot == donor else donor)

    def take(self, newcomer: SlotContents, placement: Placement) -> None:
        """Gives the slot away as `find` said. `num_computed` of `newcomer` is set to what is reused."""
        del self._free[placement.slot]
        newcomer.num_computed = placement.num_reused
        self._put(placement.slot, newcomer)

    def release(self, slot: int) -> None:
        """The slot may be given away; until then what it holds may be reused."""
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """What the slot holds is not to be trusted."""
        self._put(slot, None)

    def num_reusable(self, newcomer: SlotContents) -> int:
        """How many of the newcomer's first tokens need not be computed, as things stand. Any thread."""
        return self._longest_match(newcomer)[1]

    def grid_of(self, name: str) -> Grid | None:
        """Of an image that a slot holds, by its features' name. Any thread."""
        return next((image.grid for image in self._images() if image.name == name), None)

    def resident_names(self) -> frozenset[str]:
        """Of the images' features that are not needed by who goes on where a slot ends. Any thread."""
        return frozenset(image.name for image in self._images())

    def check_integrity(self) -> None:
        """Raises RuntimeError where the table contradicts itself."""
        if not set(self._free) <= set(range(self.num_slots)) or any(
            contents.num_computed > len(contents.tokens) for contents in self._contents if contents is not None
        ):
            raise RuntimeError("the slot table contradicts itself")

    def _put(self, slot: int, contents: SlotContents | None) -> None:
        self._contents = (*self._contents[:slot], contents, *self._contents[slot + 1 :])

    def _images(self) -> Iterator[SlotImage]:
        """Those of which a slot holds all keys and values."""
        for contents in self._contents:
            if contents is not None:
                num_computed = contents.num_computed
                yield from (image for image in contents.images if image.end <= num_computed)

    def _may_be_overwritten(self, slot: int, reused: int) -> bool:
        """A conversation goes on in its slot; a mere shared beginning is copied, so that both remain."""
        held = self._contents[slot]
        return held is None or reused * 2 >= held.num_computed

    def _longest_match(self, newcomer: SlotContents) -> tuple[int | None, int]:
        best: int | None = None
        longest = 0
        for slot, contents in enumerate(self._contents):
            length = 0 if contents is None else common_prefix(newcomer, contents)
            if length > longest:
                best, longest = slot, length
        return best, longest


def common_prefix(newcomer: SlotContents, held: SlotContents) -> int:
    """How many of the newcomer's first tokens the slot of `held` holds; at most all but one, because the last must be
    computed."""
    if newcomer.salt != held.salt:
        return 0
    limit = min(len(newcomer.tokens) - 1, held.num_computed)
    return _before_other_images(_equal_tokens(newcomer.tokens, held.tokens, limit), newcomer.images, held.images)


def _equal_tokens(ours: list[int], theirs: list[int], limit: int) -> int:
    """How many of the first `limit` tokens are equal."""
    for begin in range(0, limit, _COMPARED):
        end = min(begin + _COMPARED, limit)
        if ours[begin:end] != theirs[begin:end]:
            return next(index for index in range(begin, end) if ours[index] != theirs[index])
    return limit


def _before_other_images(length: int, ours: Sequence[SlotImage], theirs: Sequence[SlotImage]) -> int:
    for image in {*ours} ^ {*theirs}:
        length = min(length, image.offset)
    return length
