"""Which waiting prompts advance in a step, by how many tokens, and which of them share a forward pass. Pure; knows no tensors.

The first prompt is sure of half the budget: the longest-waiting one of the tenant whose turn it is, since that is the order of a
step's rows. The rest goes to whoever is nearest to its first token: short prompts overtake a long one, and no prompt starves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

NOBODY: Mapping[int, int] = MappingProxyType({})


class Waiting(Protocol):
    """What must be known of a row (see `LlmRow`)."""

    @property
    def slot(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def is_scored(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: the rows' indices, tokens of each; `is_scored`: the logits behind all of them are looked at."""

    indices: list[int]
    lengths: list[int]
    is_scored: bool = False


def planned(rows: Sequence[Waiting], budget: int, max_scored: int, behind: Mapping[int, int] = NOBODY) -> list[Pass]:
    """A step's passes: one for all running answers, the others for prompts. `budget` tokens of prompts in all; passes that are scored
    have `max_scored` at most, the padding counted. `behind`: who waits for another's prompt, which goes on in its place if that is
    the earlier one, and is as near to a first token as the nearest of them."""
    answering: list[int] = []
    waiting: list[int] = []
    for index, row in enumerate(rows):
        (waiting if row.num_waiting else answering).append(index)
    waiting = list(dict.fromkeys(_first_of(index, behind) for index in waiting))
    answering.sort(key=lambda index: rows[index].slot)
    passes = [Pass(answering, [1] * len(answering))] if answering else []
    if not waiting:
        return passes
    near = {index: rows[index].num_waiting for index in waiting}
    for index in behind:
        first = _first_of(index, behind)
        near[first] = min(near[first], rows[index].num_waiting)
    shares = share_budget([_room(rows[index], max_scored) for index in waiting], budget, [near[index] for index in waiting])
    for is_scored in (False, True):
        of_kind = [share if rows[index].is_scored == is_scored else 0 for index, share in zip(waiting, shares, strict=True)]
        for group in group_by_length(of_kind):
            for part in _within(group, of_kind, max_scored) if is_scored else [group]:
                passes.append(Pass([waiting[place] for place in part], [of_kind[place] for place in part], is_scored))
    return passes


def _first_of(index: int, behind: Mapping[int, int]) -> int:
    """Whom it waits for, or whom that one waits for, and so on."""
    while index in behind:
        index = behind[index]
    return index


def _room(row: Waiting, max_scored: int) -> int:
    return min(row.num_waiting, max_scored) if row.is_scored else row.num_waiting


def _within(group: Sequence[int], lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """The group, longest first, in parts that are as long as its longest times their number."""
    num_rows = max(1, max_tokens // lengths[group[0]])
    for first in range(0, len(group), num_rows):
        yield list(group[first : first + num_rows])


def share_budget(remaining: Sequence[int], budget: int, near: Sequence[int] | None = None) -> list[int]:
    """Tokens for each prompt (in their order) this step: at most `budget` in all, and all of it where there is that much. `near`: how far
    each, or who waits for it, is from its first token; None: as far as its `remaining`."""
    near = remaining if near is None else near
    shares = [0] * len(remaining)
    if not remaining:
        return shares
    shares[0] = min(remaining[0], -(-budget // 2))
    left = budget - shares[0]
    for index in sorted(range(len(remaining)), key=lambda index: (near[index], index)):
        extra = min(remaining[index] - shares[index], left)
        shares[index] += extra
        left -= extra
    return shares


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of chunks that share a forward pass: padding a group to its longest at most doubles it. Chunks of 0 are left
    out."""
    groups: list[list[int]] = []
    for index in sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index]):
        if groups and lengths[index] * 2 >= lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
