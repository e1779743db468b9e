"""Masks: what they leave out is impossible, what they let through is as it was."""

import numpy as np
import pytest
import torch

from stages.llm.sampling.masks import apply_masks, with_masks
from stages.llm.structure.vocabulary import Mask

pytestmark = pytest.mark.models


def mask_of(tokens: set[int], size: int) -> Mask:
    bits = np.zeros(32 * (size // 32 + 1), np.uint8)
    bits[[*tokens]] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 400])
def test_each_row_keeps_what_its_own_mask_lets_through(size: int) -> None:
    logits = torch.randn(4, size)
    kept = {0: {0, size - 1}, 2: set(range(0, size, 3))}
    masked, masks = logits.clone(), [(row, mask_of(tokens, size)) for row, tokens in kept.items()]
    apply_masks(masked, masks)
    assert torch.equal(with_masks(logits, masks), masked)
    for row in range(4):
        for token in range(size):
            allowed = row not in kept or token in kept[row]
            assert masked[row, token] == (logits[row, token] if allowed else -torch.inf)


def test_all_rows_may_be_masked() -> None:
    logits, masks = torch.zeros(3, 40), [(row, mask_of({row}, 40)) for row in range(3)]
    masked = with_masks(logits, masks)
    assert not torch.isinf(logits).any()
    apply_masks(logits, masks)
    assert torch.equal(masked, logits)
    assert logits.argmax(dim=-1).tolist() == [0, 1, 2]
    assert torch.isinf(logits).sum() == 3 * 39


def test_what_is_no_number_stays_none() -> None:
    """Or a row whose model broke would seem sound."""
    logits = torch.tensor([[torch.nan, torch.inf, 0.0]])
    apply_masks(logits, [(0, mask_of({2}, 3))])
    assert logits.isnan().tolist() == [[True, True, False]]


def test_nothing_to_mask_changes_nothing() -> None:
    logits = torch.randn(2, 5)
    before = logits.clone()
    apply_masks(logits, [])
    assert torch.equal(logits, before)
