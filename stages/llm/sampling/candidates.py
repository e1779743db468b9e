"""Which tokens may be drawn: min_p, then top_k, then top_p, each keeping the likeliest of what the one before it kept.

Works on masses, [rows, tokens] float32, in place: probabilities but for a factor, the likeliest token's being 1; what is not kept
becomes 0. There are two ways to the same sets: on a device everything is sorted, because looking at a result there costs more;
in this machine's memory only what the next decision needs is looked at. Knows no seeds and no penalties.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.llm.messages import Sampling
from stages.llm.sampling.likeliest_share import keep_share, works_on
from stages.llm.sampling.row_numbers import RowNumbers

BLOCK = 256
"""Tokens are looked at in blocks of so many neighbours: about the root of a vocabulary."""

_FEW = 2048
"""About so many values are sorted; of more, those that can't matter are left out first."""

_FIRST_BOUND, _BOUND_RATIO = 2.0**-8, 2.0**-3
"""Most distributions reach their share with few tokens, which a high bound finds soonest."""

Masses = NDArray[np.float32]


def keep(masses: Tensor, settings: Sequence[Sampling], numbers: RowNumbers | None = None) -> None:
    """`settings`: a row's each; `numbers`: the same beside the masses, where it is there already. top_k 0 keeps all, and else what
    is exactly as likely as the last one, too; top_p keeps the fewest tokens that reach it, the lower ones of equally likely
    tokens."""
    if masses.device.type == "cpu":
        keep_in_memory(masses, settings)
    else:
        keep_on_device(masses, settings, RowNumbers.of(settings, masses.device) if numbers is None else numbers)


def keep_on_device(masses: Tensor, settings: Sequence[Sampling], numbers: RowNumbers) -> None:
    """Nothing is read back, and nothing sent there."""
    if any(one.min_p for one in settings):
        masses.masked_fill_(masses < numbers.min_p.float()[:, None], 0.0)
    size = masses.shape[-1]
    if counts := [min(one.top_k, size) for one in settings if one.top_k]:
        kept = numbers.top_k[:, None]
        least = top(masses, max(counts))[0].gather(1, (kept - 1).clamp(min=0, max=max(counts) - 1))
        masses.masked_fill_((masses < least) & (kept > 0), 0.0)
    if all(one.top_p >= 1 for one in settings):
        return
    if works_on(masses.device):
        keep_share(masses, numbers.top_p)
    else:
        top_p = numbers.top_p[:, None]
        masses.copy_(torch.where(top_p < 1, _likeliest_share(masses, top_p), masses))


def _likeliest_share(masses: Tensor, top_p: Tensor) -> Tensor:
    values, order = masses.sort(dim=-1, descending=True, stable=True)
    reached = values.cumsum(dim=-1, dtype=torch.float64)
    kept = torch.where(reached - values < top_p * reached[:, -1:], values, 0.0)
    return torch.zeros_like(masses).scatter_(1, order, kept)


def keep_in_memory(masses: Tensor, settings: Sequence[Sampling]) -> None:
    totals = (
        masses.sum(dim=-1, dtype=torch.float64).tolist()
        if any(_only_top_p(one) for one in settings)
        else [0.0] * len(settings)
    )
    for row, one, total in zip(masses, settings, totals, strict=True):
        if _only_top_p(one):
            _keep_share_of_all(row, one.top_p, total)
        elif one.min_p or one.top_k:
            _keep_of_some(row, one)


def _only_top_p(one: Sampling) -> bool:
    return one.top_p < 1 and not one.min_p and not one.top_k


def _keep_of_some(masses: Tensor, asked: Sampling) -> None:
    """One row [tokens], of which min_p or top_k leaves some."""
    row: Masses = masses.numpy()
    least = asked.min_p
    if 0 < asked.top_k < len(row):
        least = max(least, _greatest(row, asked.top_k))
    if asked.top_p < 1:
        found = _found(row, least) if least > 0 else _Found(np.arange(len(row)), row)
        _keep_share(row, found, 0.0, asked.top_p * found.mass)
    elif least > 0:
        _keep_at_least(masses, least)


def _keep_share_of_all(masses: Tensor, top_p: float, total: float) -> None:
    """One row [tokens] that holds `total`."""
    row: Masses = masses.numpy()
    above, found = _around(row, top_p * total, surplus=(1 - top_p) * total)
    _keep_share(row, found, above, top_p * total)


@dataclass(frozen=True, slots=True)
class _Found:
    """Some of a row's masses, and where they stand, in the order of the tokens."""

    places: NDArray[np.intp]
    values: Masses

    @property
    def mass(self) -> float:
        return float(self.values.sum(dtype=np.float64))

    def of(self, is_kept: NDArray[np.bool_]) -> "_Found":
        return _Found(self.places[is_kept], self.values[is_kept])


def _found(row: Masses, least: float) -> _Found:
    places = np.flatnonzero(row >= np.float32(least))
    return _Found(places, row[places])


def _greatest(row: Masses, count: int) -> float:
    """The last of the `count` greatest."""
    whole = len(row) // BLOCK
    if count < whole:  # there are as many that reach the greatest of the blocks
        highest = row[: whole * BLOCK].reshape(whole, BLOCK).max(axis=1)
        found = row[np.flatnonzero(row >= np.partition(highest, whole - count)[whole - count])]
        row = found if len(found) >= count else row
    return float(np.partition(row, len(row) - count)[len(row) - count])


def _keep_at_least(masses: Tensor, least: float) -> None:
    torch.threshold_(masses, float(np.nextafter(np.float32(least), np.float32(0))), 0.0)


def _keep_share(row: Masses, found: _Found, above: float, wanted: float) -> None:
    """Of what was found only the greatest are kept, as many as reach the `wanted` mass, and what is greater than all of them,
    which holds `above`."""
    if not len(found.values):
        return  # no numbers
    values = np.sort(found.values)[::-1]
    reached = above + np.cumsum(values, dtype=np.float64)
    place = min(int(np.searchsorted(reached, wanted)), len(values) - 1)
    least = values[place]
    first = int(np.searchsorted(-values, -least))
    alike = np.flatnonzero(found.values == least)
    is_kept = found.values >= least
    is_kept[alike[place + 1 - first :]] = False
    kept = found.of(is_kept)
    greater = _found(row, np.nextafter(found.values.max(), np.float32(2))) if above else None
    row.fill(0.0)
    row[kept.places] = kept.values
    if greater is not None:
        row[greater.places] = greater.values


def _around(row: Masses, wanted: float, surplus: float) -> tuple[float, _Found]:
    """The greatest masses together hold the `wanted` one. The last of them is among few, which are returned behind the mass of
    all that are greater."""
    # Of n tokens, those up to a bound together hold at most n bounds: where that much may be lost, none of them is needed.
    low, bound = surplus / len(row), _FIRST_BOUND
    while True:
        found = _found(row, max(bound, low))
        if not bound > low or found.mass >= wanted:  # also of no numbers
            break
        bound *= _BOUND_RATIO
    low, high, above = max(bound, low), 1.0, 0.0
    for _ in range(math.ceil(math.log2(len(found.values) / _FEW)) if len(found.values) > _FEW else 0):
        middle = math.sqrt(low * high)
        is_greater = found.values > np.float32(middle)
        greater = found.of(is_greater)
        mass = above + greater.mass
        if mass >= wanted:
            low, found = middle, greater
        else:
            high, above, found = middle, mass, found.of(~is_greater)
    return above, found


def likeliest(values: Tensor) -> Tensor:
    """Where the greatest of each row of `values` [rows, n] stands; of several the first, as `Tensor.argmax` has it in more time."""
    size = values.shape[-1]
    whole = size // BLOCK
    highest = values[:, : whole * BLOCK].view(len(values), whole, BLOCK).amax(dim=-1)
    found = torch.cat([highest, values[:, whole * BLOCK :]], dim=1).argmax(dim=-1, keepdim=True)
    places = found.clamp(max=max(0, whole - 1)) * BLOCK + torch.arange(min(BLOCK, size), device=values.device)
    inside = values.gather(1, places).argmax(dim=-1, keepdim=True)
    return torch.where(found < whole, places.gather(1, inside), found + whole * (BLOCK - 1))[:, 0]


def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` greatest of each row of `values` [rows, n] and where they stand, greatest first, as `Tensor.topk` has them.

    They lie in the `count` blocks with the greatest maxima, so only those are searched."""
    size = values.shape[-1]
    whole = size // BLOCK
    if count >= whole:
        greatest, places = values.topk(count, dim=-1)
        return greatest, places
    highest = values[:, : whole * BLOCK].view(len(values), whole, BLOCK).amax(dim=-1)
    blocks = highest.topk(count, dim=-1).indices
    places = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(1)
    rest = torch.arange(whole * BLOCK, size, device=values.device).expand(len(values), -1)
    places = torch.cat([places, rest], dim=1)
    greatest, found = values.gather(1, places).topk(count, dim=-1)
    return greatest, places.gather(1, found)
