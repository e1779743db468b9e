"""What is written for GPUs gives there what the plain way gives: the same sets of tokens, and the same draws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.llm.messages import Sampling
from stages.llm.sampling.candidates import BLOCK, keep_in_memory
from stages.llm.sampling.likeliest_share import keep_share, works_on
from stages.llm.sampling.noise import draw, row_keys
from stages.llm.sampling.race import draw_in_two
from stages.llm.sampling.sampling import RowSampler, decide

DEVICE = torch.device("cuda")

pytestmark = [pytest.mark.models, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def masses_of(rows: int, size: int, seed: int, spread: float) -> torch.Tensor:
    """Rounded as logits in bfloat16 are, so that many are exactly alike."""
    logits = (torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread).bfloat16().float()
    return (logits - logits.amax(dim=-1, keepdim=True)).exp()


def test_triton_works_here() -> None:
    assert works_on(DEVICE)


@given(
    st.integers(1, 9000),
    st.integers(0, 2**32),
    st.floats(0.01, 8),
    st.lists(st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.9999, 1.0]), min_size=1, max_size=5),
)
def test_the_same_tokens_are_kept_as_in_memory(size: int, seed: int, spread: float, top_p: list[float]) -> None:
    masses = masses_of(len(top_p), size, seed, spread)
    there = masses.to(DEVICE)
    keep_share(there, torch.tensor(top_p, dtype=torch.float64, device=DEVICE))
    given = masses.clone()
    keep_in_memory(masses, [Sampling(1, top_p=share) for share in top_p])
    sums = masses.sum(dim=-1), there.cpu().sum(dim=-1)
    differ = torch.where((masses > 0) != (there.cpu() > 0), given, 0.0)
    # Sums in another order may differ in their last bits, and then by the token at the edge, and by those that weigh less than such bits.
    assert (differ.sum(dim=-1) - differ.amax(dim=-1) <= 1e-6 * given.sum(dim=-1)).all()
    torch.testing.assert_close(*sums, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size", [49_152, 151_936])
@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_a_draw_is_the_plain_ways(size: int, spread: float) -> None:
    masses = masses_of(64, size - size % BLOCK, 1, spread).to(DEVICE)
    keys = row_keys(torch.arange(64), torch.arange(64) * 7).to(DEVICE)
    agree = draw_in_two(masses, keys, BLOCK) == draw(masses, keys, BLOCK)
    assert agree.float().mean() >= 63 / 64


def test_a_draw_depends_on_nothing_but_its_key_and_masses() -> None:
    masses = masses_of(8, 4096, 2, 1.0).to(DEVICE)
    keys = row_keys(torch.arange(8), torch.arange(8)).to(DEVICE)
    together = draw_in_two(masses, keys, BLOCK)
    alone = torch.cat([draw_in_two(masses[row : row + 1].clone(), keys[row : row + 1].clone(), BLOCK) for row in range(8)])
    assert torch.equal(together, alone)


def test_a_row_without_numbers_draws_a_token_that_exists() -> None:
    masses = torch.full((3, 4096), float("nan"), device=DEVICE)
    tokens = draw_in_two(masses, row_keys(torch.arange(3), torch.arange(3)).to(DEVICE), BLOCK)
    assert tokens.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.9}, {"top_k": 20, "min_p": 0.01}, {"frequency_penalty": 0.5, "logprobs": 20}]
)
def test_nothing_of_a_decision_waits_for_the_device(settings: dict[str, float]) -> None:
    logits = torch.randn(4, 5000, device=DEVICE)
    samplers = [RowSampler(Sampling(9, seed=row, **settings), [1, 2]) for row in range(4)]  # type: ignore[arg-type]
    decide(logits, samplers)
    torch.cuda.set_sync_debug_mode("error")
    try:
        decide(logits, samplers)
    finally:
        torch.cuda.set_sync_debug_mode("default")
