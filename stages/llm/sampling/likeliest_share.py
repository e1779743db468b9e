"""The fewest tokens that hold a share of the mass, on a GPU, without sorting: a search for the least mass that is kept.

Sorting a vocabulary takes a GPU longer than a small model's whole step. A positive float32 orders as its bits do, so the least mass that
is kept is found from its highest bits down, five at a time: 32 bounds are tried in one pass over the masses, by so many programs a row
that the passes are short. Sums are in a fixed order, so the same masses give the same tokens. Of those that are exactly as likely
as the last one, the lower ones are kept. Written in Triton, which comes with torch for CUDA; where it doesn't work, `works_on` says so.

Knows no seeds, no temperatures and no rows' settings.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import logging
from functools import cache

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:  # torch for a CPU
    triton = None

_PARTS = 16
"""Programs a row."""
_BLOCK = 512
_BOUNDS = 32
_SHIFTS = (25, 20, 15, 10, 5, 0)
"""Of the bits looked at in each pass: a mass is at most 1, whose bits are below 2**30."""

log = logging.getLogger("triptych.stages")


@cache
def works_on(device: torch.device) -> bool:
    """Whether Triton compiles and runs there what this needs, and that finds what sorting would. Takes seconds, once a process."""
    if device.type != "cuda" or triton is None:
        return False
    masses = torch.arange(5000, 0, -1, device=device, dtype=torch.float32)[None].repeat(2, 1) / 5000
    masses[1] = 1.0
    try:
        keep_share(masses, torch.tensor([0.5, 0.25], dtype=torch.float64, device=device))
        kept = (masses > 0).sum(dim=-1).tolist()
    except Exception as error:  # no compiler, no memory, an unknown card
        log.warning("top_p is found by sorting: %s: %s", type(error).__name__, error)
        return False
    return bool(kept == [1465, 1250])


def keep_share(masses: Tensor, top_p: Tensor) -> None:
    """Keeps of each row of `masses` [rows, tokens] (float32, of at most 1, contiguous) the fewest that hold `top_p` [rows] (float64) of it;
    the others become 0. Of 1 or more nothing is touched. Waits for nothing."""
    rows, size = masses.shape
    bases = torch.zeros(len(_SHIFTS) + 1, rows, dtype=torch.int32, device=masses.device)
    sums = torch.empty(len(_SHIFTS), rows, _PARTS, _BOUNDS, dtype=torch.float32, device=masses.device)
    alike = torch.empty(2, rows, _PARTS, dtype=torch.float32, device=masses.device)
    share = -(-size // (_PARTS * _BLOCK)) * _BLOCK
    grid = (rows, _PARTS)
    for turn, shift in enumerate(_SHIFTS):
        before = _SHIFTS[turn - 1] if turn else 0
        _try_bounds[grid](masses, top_p, bases, sums, rows, size, share, turn, before, shift, _PARTS, _BLOCK, _BOUNDS)
    turns = len(_SHIFTS)
    _count_alike[grid](masses, top_p, bases, sums, alike, rows, size, share, turns, _PARTS, _BLOCK, _BOUNDS)
    _cut[grid](masses, top_p, bases, sums, alike, rows, size, share, turns, _PARTS, _BLOCK, _BOUNDS)


if triton is not None:
    # Compiled once for all numbers of rows and passes.
    _for_any_number = triton.jit(do_not_specialize=["rows", "size", "share", "turn", "turns", "before", "shift"])

    @triton.jit
    def _wanted(top_p, sums, row, PARTS: tl.constexpr, BOUNDS: tl.constexpr):
        """The mass that a row keeps: its share of the whole, which the first pass summed for bound 0."""
        parts = tl.arange(0, PARTS)
        whole = tl.sum(tl.load(sums + (row * PARTS + parts) * BOUNDS).to(tl.float64), axis=0)
        return whole * tl.load(top_p + row)

    @triton.jit
    def _base(top_p, bases, sums, row, rows, turn, shift, PARTS: tl.constexpr, BOUNDS: tl.constexpr):
        """The highest bound of the pass before that still holds what is wanted."""
        parts, bounds = tl.arange(0, PARTS), tl.arange(0, BOUNDS)
        at = sums + ((turn - 1) * rows + row) * PARTS * BOUNDS
        held = tl.sum(tl.load(at + parts[:, None] * BOUNDS + bounds[None, :]).to(tl.float64), axis=0)
        holds = held >= _wanted(top_p, sums, row, PARTS, BOUNDS)
        highest = tl.max(tl.where(holds, bounds, 0), axis=0)
        return tl.load(bases + (turn - 1) * rows + row) + (highest << shift)

    @_for_any_number
    def _try_bounds(
        masses, top_p, bases, sums, rows, size, share, turn, before, shift,
        PARTS: tl.constexpr, BLOCK: tl.constexpr, BOUNDS: tl.constexpr,
    ):  # fmt: skip
        row, part = tl.program_id(0), tl.program_id(1)
        base = tl.load(bases + row)
        if turn > 0:
            base = _base(top_p, bases, sums, row, rows, turn, before, PARTS, BOUNDS)
            if part == 0:
                tl.store(bases + turn * rows + row, base)
        bounds = base + (tl.arange(0, BOUNDS) << shift)
        held = tl.zeros([BOUNDS, BLOCK], tl.float32)
        for begin in range(part * share, (part + 1) * share, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            mass = tl.load(masses + row.to(tl.int64) * size + at, mask=at < size, other=0.0)
            bits = mass.to(tl.int32, bitcast=True)
            held += tl.where(bits[None, :] >= bounds[:, None], mass[None, :], 0.0)
        where = ((turn * rows + row) * PARTS + part) * BOUNDS + tl.arange(0, BOUNDS)
        tl.store(sums + where, tl.sum(held, axis=1))

    @_for_any_number
    def _count_alike(
        masses, top_p, bases, sums, alike, rows, size, share, turns,
        PARTS: tl.constexpr, BLOCK: tl.constexpr, BOUNDS: tl.constexpr,
    ):  # fmt: skip
        """Of each part: the mass above the least that is kept, and how many are exactly that."""
        row, part = tl.program_id(0), tl.program_id(1)
        base = _base(top_p, bases, sums, row, rows, turns, 0, PARTS, BOUNDS)
        if part == 0:
            tl.store(bases + turns * rows + row, base)
        above = tl.zeros([BLOCK], tl.float32)
        count = tl.zeros([BLOCK], tl.float32)
        for begin in range(part * share, (part + 1) * share, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            mass = tl.load(masses + row.to(tl.int64) * size + at, mask=at < size, other=0.0)
            bits = mass.to(tl.int32, bitcast=True)
            above += tl.where(bits > base, mass, 0.0)
            count += tl.where((bits == base) & (at < size), 1.0, 0.0)
        tl.store(alike + row * PARTS + part, tl.sum(above, axis=0))
        tl.store(alike + (rows + row) * PARTS + part, tl.sum(count, axis=0))

    @_for_any_number
    def _cut(
        masses, top_p, bases, sums, alike, rows, size, share, turns,
        PARTS: tl.constexpr, BLOCK: tl.constexpr, BOUNDS: tl.constexpr,
    ):  # fmt: skip
        row, part = tl.program_id(0), tl.program_id(1)
        if tl.load(top_p + row) < 1.0:
            parts = tl.arange(0, PARTS)
            base = tl.load(bases + turns * rows + row)
            least = base.to(tl.float32, bitcast=True).to(tl.float64)
            above = tl.sum(tl.load(alike + row * PARTS + parts).to(tl.float64), axis=0)
            counts = tl.load(alike + (rows + row) * PARTS + parts)
            lacking = _wanted(top_p, sums, row, PARTS, BOUNDS) - above
            num_kept = tl.maximum(tl.ceil((lacking / least).to(tl.float32)), 1.0)
            seen = tl.sum(tl.where(parts < part, counts, 0.0), axis=0)
            for begin in range(part * share, (part + 1) * share, BLOCK):
                at = begin + tl.arange(0, BLOCK)
                mass = tl.load(masses + row.to(tl.int64) * size + at, mask=at < size, other=0.0)
                bits = mass.to(tl.int32, bitcast=True)
                equal = tl.where((bits == base) & (at < size), 1.0, 0.0)
                place = seen + tl.cumsum(equal, axis=0)
                kept = (bits > base) | ((bits == base) & (place <= num_kept))
                tl.store(masses + row.to(tl.int64) * size + at, tl.where(kept, mass, 0.0), mask=at < size)
                seen += tl.sum(equal, axis=0)
