"""A page is what lay in the slot, bit for bit, and lies so in another."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.llm.model.slot_cache import Chunk, SlotCache, window_over
from stages.llm.model.slot_pages import WRITTEN_AT_ONCE, CannotPage, SlotPages
from stages.llm.pages.kv_page import KvPage

SHAPES = [(3, 8, 8), (1, 12, 5)]
"""Of each layer: heads, and what a key and a value have."""


def filled(dtype: torch.dtype = torch.float32, max_tokens: int = 40) -> SlotCache:
    """Two slots full of numbers, with layers of different shapes; the last layer has no keys of its own."""
    slots = SlotCache(len(SHAPES) + 1, 2, max_tokens)
    chunks = [Chunk(slot, 0, max_tokens) for slot in range(2)]
    slots.look_through(window_over(chunks, max_tokens, torch.device("cpu")))
    source = torch.Generator().manual_seed(0)
    for index, (heads, *dims) in enumerate(SHAPES):
        keys, values = (torch.randn(2, heads, max_tokens, dim, generator=source).to(dtype) for dim in dims)
        slots.update(keys, values, index)
    return slots


def held(slots: SlotCache, slot: int, begin: int, end: int) -> list[Tensor]:
    return [memory[slot, :, begin:end] for pair in slots.memories() for memory in pair]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 5])
def test_pages_of_one_slot_become_another_slots_and_nothing_else_changes(dtype: torch.dtype, count: int) -> None:
    slots, other = filled(dtype), filled(dtype)
    for tensor in held(other, 1, 0, 40):
        tensor.zero_()
    pages = [SlotPages(slots, 4).read(0, 3 + number).freeze() for number in range(count)]
    SlotPages(other, 4).write(1, 3, pages)
    for ours, theirs in zip(held(slots, 0, 0, 40), held(other, 1, 0, 40), strict=True):
        assert torch.equal(ours[:, 12 : 12 + 4 * count], theirs[:, 12 : 12 + 4 * count])
        assert not theirs[:, :12].any()
        assert not theirs[:, 12 + 4 * count :].any()
    assert all(torch.equal(a, b) for a, b in zip(held(slots, 0, 0, 40), held(other, 0, 0, 40), strict=True))


def test_a_page_has_memory_of_its_own() -> None:
    slots = filled()
    page = SlotPages(slots, 4).read(0, 0)
    before = page.keys.copy()
    for tensor in held(slots, 0, 0, 40):
        tensor.zero_()
    assert np.array_equal(page.keys, before)


@pytest.mark.parametrize("int8", [False, True])
def test_a_page_has_as_many_bytes_as_is_said(int8: bool) -> None:
    pages = SlotPages(filled(), 4, int8=int8)
    assert pages.read(1, 2).num_bytes == pages.num_bytes


def test_eight_bits_come_back_as_near_as_they_were_kept() -> None:
    slots, other = filled(max_tokens=80), filled(max_tokens=80)
    number = WRITTEN_AT_ONCE + 3
    pages = SlotPages(slots, 4, int8=True)
    SlotPages(other, 4, int8=True).write(1, 0, [pages.read(0, number).freeze() for number in range(number)])
    for ours, theirs in zip(held(slots, 0, 0, 4 * number), held(other, 1, 0, 4 * number), strict=True):
        assert (ours - theirs).abs().max() <= ours.abs().max() / 254 * 1.001
        assert not torch.equal(ours, theirs)


def altered(page: KvPage, **arrays: NDArray[Any]) -> KvPage:
    return KvPage.of({**page.arrays(), **arrays})


@pytest.mark.parametrize("int8", [False, True])
def test_what_does_not_fit_is_known(int8: bool) -> None:
    pages = SlotPages(filled(), 4, int8=int8)
    page = pages.read(0, 0)
    assert pages.fits(page)
    for strange in (
        altered(page, keys=page.keys[1:]),
        altered(page, values=page.values.reshape(2, -1)),
        altered(page, keys=page.keys.astype(np.float64)),
        altered(page, key_scales=np.ones(3, np.float32)),
        SlotPages(filled(), 5, int8=int8).read(0, 0),
        SlotPages(filled(), 4, int8=not int8).read(0, 0),
        SlotPages(filled(torch.bfloat16), 4).read(0, 0),
    ):
        assert not pages.fits(strange)


def test_what_cannot_be_paged_is_refused_with_the_reason() -> None:
    with pytest.raises(CannotPage, match="no keys and values"):
        SlotPages(SlotCache(1, 1, 8), 4)
    with pytest.raises(CannotPage, match="float8"):
        SlotPages(filled(torch.float8_e4m3fn), 4)
