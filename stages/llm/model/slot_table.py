"""Which slot a request gets, and how much of its prompt that slot, or another, already holds. Pure; knows no tensors.

A slot keeps the keys and values of its last request until another needs it, so a conversation's next turn, or a prompt
with a shared beginning, starts where the known part ends. What was computed under one salt is never used under another.

The longest run is found by the names of pages, which stand for everything before them, too: the deepest page of the newcomer that any
slot holds, then, among the slots that hold it, the longest equal tail, of less than a page. So what is compared of tokens is at most a
page a slot, however much they share.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stages.llm.pages.kv_page import Grid
from stages.llm.pages.naming import PageNaming

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
    """What is, or was last, in a slot: keys and values of the first `num_computed` of `tokens`; `num_reused` of them were not computed
    there. `chain`: the names of its beginnings, page by page (`PageNaming`), as far as they are known. `may_reuse` False: all of it must be
    computed, whatever other slots hold."""

    salt: str = field(repr=False)
    tokens: list[int]
    images: tuple[SlotImage, ...] = ()
    num_computed: int = 0
    chain: list[str] = field(default_factory=list)
    num_reused: int = 0
    may_reuse: bool = True


@dataclass(frozen=True, slots=True)
class Placement:
    """`num_reused` tokens of the prompt need not be computed; where `copy_from` is a slot, they must be copied from there."""

    slot: int
    num_reused: int = 0
    copy_from: int | None = None


class SlotTable:
    """What is where. A free slot still holds what it held last; the one freed longest ago is given away first.

    `find`, `take`, `advance`, `release`, `forget`: on one thread, the engine's. `num_reusable`, `grid_of` and `resident_names` may be
    called on any thread meanwhile, without a lock: they look at one tuple of contents, which is replaced and never changed; of each
    contents only these change: tokens and names, which are added to, and the number computed, which is read once and never counts tokens
    that are not there. Who holds a page is copied in one operation of the interpreter, and believed only where the contents say so,
    too. So they tell what was true at some moment, of every slot for itself.
    """

    def __init__(self, num_slots: int, naming: PageNaming = PageNaming()) -> None:
        self.num_slots, self.naming = num_slots, naming
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_slots))
        self._contents: tuple[SlotContents | None, ...] = (None,) * num_slots
        self._holders: dict[str, dict[int, None]] = {}  # by name in a chain, the slots that hold all of that beginning
        self._num_indexed = [0] * num_slots  # names of a slot's chain that stand in `_holders`

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

    def take(self, newcomer: SlotContents, placement: Placement, num_given: int = 0) -> None:
        """Gives the slot away as `find` said. `num_given`: how many of the first tokens the slot has now, where that is more than what
        slots held. `num_computed` of `newcomer` is set to what need not be computed."""
        del self._free[placement.slot]
        newcomer.num_computed = newcomer.num_reused = max(placement.num_reused, num_given)
        self._put(placement.slot, newcomer)
        self.advance(placement.slot)

    def advance(self, slot: int) -> None:
        """More of the slot's tokens may have been computed."""
        contents = self._contents[slot]
        if contents is None or (num_full := contents.num_computed // self.naming.page_tokens) < self._num_indexed[slot]:
            return
        self._name(contents)
        for name in contents.chain[self._num_indexed[slot] : num_full + 1]:
            self._holders.setdefault(name, {})[slot] = None
        self._num_indexed[slot] = num_full + 1

    def release(self, slot: int) -> None:
        """The slot may be given away; until then what it holds may be reused."""
        self._free[slot] = None

    def forget(self, slot: int) -> None:
        """What the slot holds is not to be trusted."""
        self._put(slot, None)

    def contents_of(self, slot: int) -> SlotContents | None:
        """What lies in it, if anything that is to be trusted."""
        return self._contents[slot]

    def num_reusable(self, newcomer: SlotContents) -> int:
        """How many of the newcomer's first tokens need not be computed, as things stand. Any thread."""
        return self._longest_match(newcomer)[1]

    def grid_of(self, name: str) -> Grid | None:
        """Of an image that a slot holds, by its features' name. Any thread."""
        return next((image.grid for image in self._images() if image.name == name), None)

    def in_the_making(self, slot: int, newcomer: SlotContents) -> Placement | None:
        """Of the slots that are taken, but for the newcomer's own, the one that will hold the longest beginning of its tokens once what
        lies in it is computed: `num_reused`, in whole pages. None that is computed in small pieces, to be scored. On the engine's
        thread."""
        if not newcomer.may_reuse:
            return None
        beginnings = newcomer.chain[
            1 : (len(newcomer.tokens) - 1) // self.naming.page_tokens + 1
        ]  # the first name is the salt's
        best, furthest = Placement(-1), -1
        for other, held in enumerate(self._contents):
            if held is None or not held.may_reuse or other == slot or other in self._free or held.chain[1:2] != beginnings[:1]:
                continue
            num_tokens = num_equal(beginnings, held.chain[1:]) * self.naming.page_tokens
            if (num_tokens, held.num_computed) > (best.num_reused, furthest):
                best, furthest = Placement(other, num_tokens), held.num_computed
        return best if best.num_reused else None

    def resident_names(self) -> frozenset[str]:
        """Of the images' features that are not needed by who goes on where a slot ends. Any thread."""
        return frozenset(image.name for image in self._images())

    def check_integrity(self) -> None:
        """Raises RuntimeError where the table contradicts itself."""
        held = {
            (name, slot)
            for slot, contents in enumerate(self._contents)
            if contents is not None
            for name in contents.chain[: self._num_indexed[slot]]
        }
        if (
            not set(self._free) <= set(range(self.num_slots))
            or any(contents.num_computed > len(contents.tokens) for contents in self._contents if contents is not None)
            or held != {(name, slot) for name, slots in self._holders.items() for slot in slots}
        ):
            raise RuntimeError("the slot table contradicts itself")

    def _put(self, slot: int, contents: SlotContents | None) -> None:
        held = self._contents[slot]
        for name in held.chain[: self._num_indexed[slot]] if held is not None else ():
            holders = self._holders[name]
            del holders[slot]
            if not holders:
                del self._holders[name]
        self._num_indexed[slot] = 0
        self._contents = (*self._contents[:slot], contents, *self._contents[slot + 1 :])

    def _name(self, contents: SlotContents) -> None:
        self.naming.extend(contents.chain, contents.salt, contents.tokens, contents.images)

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
        self._name(newcomer)
        if not newcomer.may_reuse:
            return None, 0
        all_contents = self._contents
        num_pages = self._num_shared(newcomer.chain)
        while num_pages >= 0:
            name, best, longest = newcomer.chain[num_pages], None, 0
            for slot in sorted(self._holders.get(name, ())):
                held = all_contents[slot]
                if held is not None and num_pages < len(held.chain) and held.chain[num_pages] == name:
                    length = common_prefix(newcomer, held, num_pages * self.naming.page_tokens, beyond=longest)
                    if length > longest:
                        best, longest = slot, length
            if best is not None:
                return best, longest
            num_pages -= 1  # the slots have changed meanwhile, or hold it and nothing of its tokens
        return None, 0

    def _num_shared(self, chain: Sequence[str]) -> int:
        """How many of the first pages some slot holds; -1: there is nothing under the salt. Who holds a page holds all before it."""
        low, high = -1, len(chain) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if chain[middle] in self._holders else (low, middle - 1)
        return low


def num_equal(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """How many of the first names are the same. Each stands for all before it, too."""
    low, high = 0, min(len(ours), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if ours[middle - 1] == theirs[middle - 1] else (low, middle - 1)
    return low


def common_prefix(newcomer: SlotContents, held: SlotContents, num_equal: int = 0, *, beyond: int = 0) -> int:
    """How many of the newcomer's first tokens the slot of `held` holds; at most all but one, because the last must be
    computed. The first `num_equal` are known to be equal. 0 where it is not more than `beyond`."""
    limit = min(len(newcomer.tokens) - 1, held.num_computed)
    if newcomer.salt != held.salt or limit <= beyond:
        return 0
    begin, end = min(num_equal, limit), max(num_equal, beyond + 1)
    if end <= limit and newcomer.tokens[begin:end] != held.tokens[begin:end]:
        return 0
    end = _equal_tokens(newcomer.tokens, held.tokens, min(end, limit), limit)
    return _before_other_images(end, num_equal, newcomer.images, held.images)


def _equal_tokens(ours: list[int], theirs: list[int], begin: int, limit: int) -> int:
    """How many of the first `limit` tokens are equal, where the first `begin` are."""
    for at in range(begin, limit, _COMPARED):
        end = min(at + _COMPARED, limit)
        if ours[at:end] != theirs[at:end]:
            return next(index for index in range(at, end) if ours[index] != theirs[index])
    return limit


def _before_other_images(length: int, begin: int, ours: Sequence[SlotImage], theirs: Sequence[SlotImage]) -> int:
    """Up to the first image from `begin` on that only one of both has."""
    if ours or theirs:
        for image in {*ours} ^ {*theirs}:
            if image.offset >= begin:
                length = min(length, image.offset)
    return length
