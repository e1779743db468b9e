"""The sets that top_k, top_p and min_p keep: those of transformers' own processors, the same in memory and on a device."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.llm.messages import Sampling
from stages.llm.sampling.candidates import keep, keep_in_memory, keep_on_device, likeliest, top
from stages.llm.sampling.likeliest_share import works_on
from stages.llm.sampling.row_numbers import RowNumbers

pytestmark = pytest.mark.models


def asked(**settings: Any) -> Sampling:
    return Sampling(max_tokens=1, **settings)


def masses_of(size: int, seed: int, spread: float, rows: int = 1) -> torch.Tensor:
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread
    return (logits - logits.amax(dim=-1, keepdim=True)).exp()


def in_memory(masses: torch.Tensor, settings: Sampling) -> torch.Tensor:
    kept = masses.clone()
    keep_in_memory(kept, [settings] * len(kept))
    return kept


def on_device(masses: torch.Tensor, settings: Sampling) -> torch.Tensor:
    kept = masses.clone()
    cut_as_on_device(kept, [settings] * len(kept))
    return kept


def cut_as_on_device(masses: torch.Tensor, settings: list[Sampling]) -> None:
    keep_on_device(masses, settings, RowNumbers.of(settings, masses.device))


def test_what_is_written_for_gpus_is_not_tried_in_this_machines_memory() -> None:
    assert not works_on(torch.device("cpu"))


settings_of_any_kind = st.builds(
    asked,
    top_p=st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0]),
    top_k=st.sampled_from([0, 1, 5, 300, 100_000, 2**70]),
    min_p=st.sampled_from([0.0, 1e-4, 0.1, 1.0]),
)


@given(st.integers(1, 6000), st.integers(0, 2**32), st.floats(0.01, 8), settings_of_any_kind)
def test_the_same_tokens_are_kept_in_memory_and_on_a_device(size: int, seed: int, spread: float, settings: Sampling) -> None:
    masses = masses_of(size, seed, spread)
    assert torch.equal(in_memory(masses, settings), on_device(masses, settings))


@given(st.lists(st.sampled_from([1.0, 0.5, 0.25, 0.125]), max_size=40), settings_of_any_kind)
def test_equally_likely_tokens_are_kept_alike_in_memory_and_on_a_device(values: list[float], settings: Sampling) -> None:
    masses = torch.tensor([[*values, 1.0]])
    assert torch.equal(in_memory(masses, settings), on_device(masses, settings))


@pytest.mark.parametrize("size", [50_000, 151_936])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_a_whole_vocabulary_is_cut_exactly(size: int, spread: float, top_p: float) -> None:
    masses = masses_of(size, 3, spread)
    kept = in_memory(masses, asked(top_p=top_p))[0] > 0
    share, total = masses[0].double(), float(masses.sum(dtype=torch.float64))
    reached = float(share[kept].sum()) / total
    assert reached >= top_p - 1e-6
    assert reached - float(share[kept].min()) / total < top_p + 1e-6
    assert float(share[kept].min()) >= float(share[~kept].max())


def test_of_equally_likely_tokens_the_lower_ones_are_kept() -> None:
    for way in (in_memory, on_device):
        assert way(torch.ones(1, 10), asked(top_p=0.55))[0].tolist() == [1.0] * 6 + [0.0] * 4
        assert way(torch.tensor([[0.5, 1.0, 0.5, 0.5]]), asked(top_p=0.7))[0].tolist() == [0.5, 1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05}, {"top_k": 50, "top_p": 0.8}, {"min_p": 0.02, "top_k": 9, "top_p": 0.7}],
    ids=str,
)
@pytest.mark.parametrize("way", [in_memory, on_device])
def test_the_sets_are_those_of_transformers(settings: dict[str, Any], way: Any) -> None:
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    processors = {"min_p": MinPLogitsWarper, "top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    logits = torch.randn(20, 3000, generator=torch.Generator().manual_seed(8)) * 2
    expected = logits
    for name in ("min_p", "top_k", "top_p"):
        if name in settings:
            expected = processors[name](settings[name])(torch.zeros(20, 1, dtype=torch.long), expected)
    kept = way((logits - logits.amax(dim=-1, keepdim=True)).exp(), asked(**settings)) > 0
    assert torch.equal(kept, torch.isfinite(expected))


def test_rows_are_cut_by_their_own_settings() -> None:
    masses = masses_of(2000, 5, 2.0, rows=4)
    settings = [asked(), asked(top_p=0.5), asked(top_k=3), asked(top_k=10, top_p=0.9, min_p=0.2)]
    for cut in (keep, cut_as_on_device):
        together = masses.clone()
        cut(together, settings)
        for row, one in enumerate(settings):
            assert torch.equal(together[row : row + 1], in_memory(masses[row : row + 1], one))


def test_a_row_that_is_no_numbers_disturbs_nobody() -> None:
    masses = masses_of(2000, 5, 2.0, rows=2)
    expected = in_memory(masses[1:], asked(top_p=0.5))
    masses[0] = float("nan")
    for cut in (keep, cut_as_on_device):
        together = masses.clone()
        cut(together, [asked(top_p=0.5, top_k=4, min_p=0.1), asked(top_p=0.5)])
        assert torch.equal(together[1:], expected)


@given(st.integers(1, 3000), st.integers(1, 20), st.integers(0, 2**32))
def test_the_likeliest_is_the_first_of_the_greatest(size: int, kinds: int, seed: int) -> None:
    values = torch.randint(kinds, (3, size), generator=torch.Generator().manual_seed(seed)).float()
    assert likeliest(values).tolist() == [row.index(max(row)) for row in values.tolist()]


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32))
def test_the_greatest_are_found_through_their_blocks(size: int, count: int, seed: int) -> None:
    values = torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    count = min(count, size)
    found, places = top(values, count)
    assert torch.equal(found, values.topk(count, dim=-1).values)
    assert torch.equal(values.gather(1, places), found)


def test_what_all_masses_are_together_is_added_up_exactly_enough_for_the_least_likely() -> None:
    draw = torch.Generator().manual_seed(4)
    for _ in range(200):
        size, spread = int(torch.randint(2000, 6000, (1,), generator=draw)), float(torch.rand(1, generator=draw)) * 2
        masses = masses_of(size, int(torch.randint(0, 2**31, (1,), generator=draw)), spread)
        assert torch.equal(in_memory(masses, asked(top_p=0.9999)), on_device(masses, asked(top_p=0.9999)))
