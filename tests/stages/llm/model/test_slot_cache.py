"""Every row writes at its own place of its own slot, and reads its own slot."""

import pytest
import torch

from stages.llm.model.slot_cache import READ_STEP, Chunk, SlotCache, SlotLayer, window_over

pytestmark = pytest.mark.models

CPU = torch.device("cpu")
LAYOUTS = {
    "one slot": [Chunk(3, 5, 2)],
    "all together": [Chunk(0, 4, 1), Chunk(1, 9, 1), Chunk(2, 0, 1)],
    "with an idle slot between": [Chunk(0, 4, 1), Chunk(1, 2, 1), Chunk(2, 1, 1), Chunk(4, 9, 1)],
    "far apart": [Chunk(5, 4, 1), Chunk(0, 9, 1)],
    "of different lengths": [Chunk(2, 0, 7), Chunk(1, 70, 3)],
    "in another order": [Chunk(2, 1, 1), Chunk(0, 3, 1), Chunk(1, 2, 1)],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_write_and_read_their_own_places(name: str) -> None:
    chunks = LAYOUTS[name]
    layer = SlotLayer(num_slots=6, max_tokens=150)
    window = window_over(chunks, 150, CPU)
    states = torch.randn(window.batch, 2, window.width, 3)
    layer.lazy_initialization(states, states)
    layer.keys.normal_()
    before = layer.keys.clone()
    layer.window = window
    keys, values = layer.update(states, -states)
    assert keys.shape == values.shape == (window.batch, 2, window.read_length, 3)
    for chunk, line in zip(chunks, window.lines, strict=True):
        written = states[line, :, window.width - chunk.length :]
        before[chunk.slot, :, chunk.start : chunk.end] = written
        assert torch.equal(keys[line, :, chunk.start : chunk.end], written)
        assert torch.equal(values[line, :, chunk.start : chunk.end], -written)
        assert torch.equal(keys[line, :, : chunk.start], before[chunk.slot, :, : chunk.start])
    assert torch.equal(layer.keys, before)


def test_reads_follow_the_longest_row_not_the_slots_size() -> None:
    window = window_over([Chunk(0, 3, 1), Chunk(1, READ_STEP, 1)], 4096, CPU)
    assert window.read_length == 2 * READ_STEP
    assert window_over([Chunk(0, 3, 1)], 10, CPU).read_length == 10


def test_slots_that_lie_together_are_read_in_place() -> None:
    layer = SlotLayer(4, 64)
    window = window_over([Chunk(1, 0, 1), Chunk(2, 5, 1)], 64, CPU)
    layer.window = window
    keys, _ = layer.update(torch.ones(2, 1, 1, 2), torch.ones(2, 1, 1, 2))
    assert keys.untyped_storage().data_ptr() == layer.keys.untyped_storage().data_ptr()


def test_a_prefix_is_copied_and_a_slot_is_wiped() -> None:
    cache = SlotCache(2, num_slots=2, max_tokens=8)
    cache.look_through(window_over([Chunk(0, 0, 4)], 8, CPU))
    states = torch.randn(1, 1, 4, 2)
    for layer in range(2):
        cache.update(states, states, layer)
    cache.copy_prefix(0, 1, 3)
    for layer in cache.layers:
        assert torch.equal(layer.keys[1, :, :3], states[0, :, :3])
        assert not layer.keys[1, :, 3:].any()
    cache.wipe(0)
    assert all(not layer.keys[0].any() and not layer.values[0].any() for layer in cache.layers)
    assert cache.num_bytes == 2 * 2 * (2 * 1 * (8 + 1) * 2) * 4


def test_a_forward_pass_without_a_window_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="window"):
        SlotLayer(1, 8).update(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
