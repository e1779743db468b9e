"""`noise.draw` on a GPU in two kernels, where torch would launch some sixty: a small model's step is hardly longer than those take.

The same numbers for the same keys, the same race between blocks and then within the winner; only the order in which a block's masses are
summed differs. Written in Triton, as `likeliest_share.py`. Knows no settings.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import torch
from torch import Tensor

from stages.llm.sampling.noise import FIRST_FACTOR, GOLDEN, SECOND_FACTOR

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:  # torch for a CPU
    triton = None

_BLOCKS = 16
"""Of masses that one program looks at."""


def draw_in_two(masses: Tensor, keys: Tensor, block: int) -> Tensor:
    """As `noise.draw`: one token a row [rows] int64, for `masses` [rows, tokens] float32 of whole blocks and `keys` [rows, 1]."""
    rows, size = masses.shape
    num_blocks = size // block
    num_parts = -(-num_blocks // _BLOCKS)
    scores = torch.empty(rows, num_parts, dtype=torch.float64, device=masses.device)
    winners = torch.empty(rows, num_parts, dtype=torch.int32, device=masses.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=masses.device)
    constants = GOLDEN, FIRST_FACTOR, SECOND_FACTOR
    _race_of_blocks[(rows, num_parts)](masses, keys, scores, winners, size, num_blocks, num_parts, *constants, block, _BLOCKS)
    room = triton.next_power_of_2(num_parts)
    _race_of_tokens[(rows,)](masses, keys, scores, winners, tokens, size, num_parts, *constants, block, room)
    return tokens


if triton is not None:
    _for_any_number = triton.jit(do_not_specialize=["size", "num_blocks", "num_parts"])

    @triton.jit
    def _exponential(key, numbers, GOLDEN: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr):
        """As `noise.exponential`."""
        state = key + numbers * GOLDEN
        state = (state ^ ((state >> 30) & 0x3FFFFFFFF)) * FIRST
        state = (state ^ ((state >> 27) & 0x1FFFFFFFFF)) * SECOND
        state = state ^ ((state >> 31) & 0x1FFFFFFFF)
        bits = (state >> 12) & 0xFFFFFFFFFFFFF
        return -tl.log((bits.to(tl.float64) + 0.5) * 2.220446049250313e-16)

    @_for_any_number
    def _race_of_blocks(
        masses, keys, scores, winners, size, num_blocks, num_parts,
        GOLDEN: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
    ):  # fmt: skip
        row, part = tl.program_id(0), tl.program_id(1)
        blocks = part * BLOCKS + tl.arange(0, BLOCKS)
        at = row.to(tl.int64) * size + blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        held = tl.sum(tl.load(masses + at, mask=blocks[:, None] < num_blocks, other=0.0), axis=1).to(tl.float64)
        score = held / _exponential(tl.load(keys + row), -1 - blocks.to(tl.int64), GOLDEN, FIRST, SECOND)
        score = tl.where(score >= 0, score, 0.0)  # no numbers: the first token is as good as any
        score = tl.where(blocks < num_blocks, score, -1.0)
        tl.store(scores + row * num_parts + part, tl.max(score, axis=0))
        tl.store(winners + row * num_parts + part, part * BLOCKS + tl.argmax(score, axis=0))

    @_for_any_number
    def _race_of_tokens(
        masses, keys, scores, winners, tokens, size, num_parts,
        GOLDEN: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr, ROOM: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0)
        parts = tl.arange(0, ROOM)
        score = tl.load(scores + row * num_parts + parts, mask=parts < num_parts, other=-1.0)
        winner = tl.load(winners + row * num_parts + tl.argmax(score, axis=0)).to(tl.int64)
        places = winner * BLOCK + tl.arange(0, BLOCK)
        mass = tl.load(masses + row.to(tl.int64) * size + places).to(tl.float64)
        score = mass / _exponential(tl.load(keys + row), places, GOLDEN, FIRST, SECOND)
        score = tl.where(score >= 0, score, 0.0)
        tl.store(tokens + row, winner * BLOCK + tl.argmax(score, axis=0))
