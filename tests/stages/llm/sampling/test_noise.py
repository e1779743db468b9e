"""The keyed noise is the published function, evenly spread along each of its keys, and draws tokens as often as they are likely."""

import math

import pytest
import torch
from scipy.stats import chisquare, kstest

from stages.llm.sampling.noise import draw, exponential, row_keys

pytestmark = pytest.mark.models

WRAP = 2**64
BLOCK = 256


def reference(seed: int, position: int, number: int) -> float:
    """The same in Python's unbounded integers."""

    def mixed(state: int) -> int:
        state = (state ^ state % WRAP >> 30) * 0xBF58476D1CE4E5B9 % WRAP
        state = (state ^ state >> 27) * 0x94D049BB133111EB % WRAP
        return state ^ state >> 31

    golden = 0x9E3779B97F4A7C15
    key = mixed((mixed((seed + golden) % WRAP) + position * golden) % WRAP)
    return -math.log(((mixed((key + number * golden) % WRAP) >> 12) + 0.5) / 2**52)


def numbers(seeds: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return exponential(row_keys(seeds, positions), tokens)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -5, -(2**63)])
def test_the_noise_is_splitmix64_of_seed_position_and_token(seed: int) -> None:
    positions = [0, 1, 17, 100_000]
    tokens = [0, 1, 151_935, -1, -600]
    found = numbers(torch.tensor([seed] * 4), torch.tensor(positions), torch.tensor([tokens]))
    expected = [[reference(seed, position, token) for token in tokens] for position in positions]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("key", ["seed", "position", "token"])
def test_the_noise_is_exponential_along_each_key(key: str) -> None:
    many, zero, one = torch.arange(20_000), torch.zeros(20_000, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    if key == "token":
        found = numbers(one, one, many[None])
    else:
        found = numbers(many if key == "seed" else zero, many if key == "position" else zero, one[None])
    assert kstest(found.flatten().numpy(), "expon").pvalue > 0.01


def test_neighbouring_seeds_and_positions_are_not_alike() -> None:
    tokens = torch.arange(5000)[None]
    found = numbers(torch.tensor([1, 2, 1]), torch.tensor([1, 1, 2]), tokens)
    correlations = torch.corrcoef(found)
    assert float((correlations - torch.eye(3)).abs().max()) < 0.05


@pytest.mark.parametrize("flatness", [0.0, 1.0, 6.0])
def test_tokens_of_all_blocks_come_as_often_as_they_are_likely(flatness: float) -> None:
    draws, size = 40_000, 2 * BLOCK
    generator = torch.Generator().manual_seed(1)
    masses = (flatness * torch.randn(size, generator=generator)).exp()
    masses[100:300] = 0.0
    counts = torch.zeros(size)
    for start in range(0, draws, 4000):
        positions = torch.arange(start, start + 4000)
        tokens = draw(masses.expand(4000, -1), row_keys(torch.full((4000,), 11), positions), BLOCK)
        counts += torch.bincount(tokens, minlength=size)
    assert float(counts[100:300].sum()) == 0
    expected = masses.double() / masses.double().sum() * draws
    often = expected >= 5
    found = [*counts[often].tolist(), float(counts[~often].sum())]
    wanted = [*expected[often].tolist(), float(expected[~often].sum())]
    if wanted[-1] < 5:
        found, wanted = [*found[:-2], found[-2] + found[-1]], [*wanted[:-2], wanted[-2] + wanted[-1]]
    assert chisquare(found, wanted).pvalue > 0.01


def test_a_row_draws_the_same_alone_and_among_others() -> None:
    generator = torch.Generator().manual_seed(4)
    masses = torch.rand(8, 4 * BLOCK, generator=generator)
    seeds, positions = torch.arange(8), torch.arange(8) * 3
    together = draw(masses, row_keys(seeds, positions), BLOCK)
    for row in range(8):
        alone = draw(masses[row : row + 1], row_keys(seeds[row : row + 1], positions[row : row + 1]), BLOCK)
        assert int(alone[0]) == int(together[row])
