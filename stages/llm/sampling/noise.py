"""Random numbers that are a function of what they are for: a seed, a position in the answer, and a token.

Nothing is drawn from a stream, so what one row draws can't depend on the others, on earlier steps or on the device. Decides the
function; knows no logits.
"""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
SECOND_FACTOR = 0x94D049BB133111EB - 2**64
_BITS = 52  # with a half added, still exact in float64


def row_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """[rows] int64 each -> [rows, 1]: what `exponential` mixes a row's tokens with."""
    return _mixed(_mixed(seeds + GOLDEN) + positions * GOLDEN)[:, None]


def exponential(keys: Tensor, numbers: Tensor) -> Tensor:
    """Exponentially distributed numbers of mean 1 (float64, never 0) for `keys` [rows, 1] and `numbers` [rows or 1, n] int64.
    Equal on every device but for the last bits of a logarithm."""
    bits = (_mixed(keys + numbers * GOLDEN) >> (64 - _BITS)) & (2**_BITS - 1)
    return -((bits.double() + 0.5) * 2.0**-_BITS).log()


def _mixed(state: Tensor) -> Tensor:
    """SplitMix64's output function (Steele, Lea and Flood 2014) on int64, which wraps; shifts there keep the sign, so it is
    masked away."""
    state = (state ^ ((state >> 30) & (2**34 - 1))) * FIRST_FACTOR
    state = (state ^ ((state >> 27) & (2**37 - 1))) * SECOND_FACTOR
    return state ^ ((state >> 31) & (2**33 - 1))


def draw(masses: Tensor, keys: Tensor, block: int) -> Tensor:
    """One token a row [rows], each as likely as its share of `masses` [rows, tokens] (float32, not negative, as many tokens as
    fill whole blocks), by an exponential race: the least exponential / mass wins, which is Gumbel's maximum without its logarithms.

    The race is run between blocks of `block` neighbouring tokens first, and then within the winner: the minimum over a block is
    itself exponential, with the block's mass, and independent of who attains it. So the distribution is exact, a small change
    of the logits seldom changes the winner, and few numbers are drawn, each for a fixed token or block.
    """
    summed = masses.view(len(masses), -1, block).sum(dim=-1).double()
    blocks = torch.arange(summed.shape[-1], device=masses.device)
    winner = (summed / exponential(keys, (-1 - blocks)[None])).argmax(dim=-1, keepdim=True)
    tokens = winner * block + torch.arange(block, device=masses.device)
    first = (masses.gather(1, tokens).double() / exponential(keys, tokens)).argmax(dim=-1, keepdim=True)
    return tokens.gather(1, first)[:, 0]
