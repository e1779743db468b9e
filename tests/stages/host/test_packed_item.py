"""Items that share large arrays on their way to another process."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.codec import BFLOAT16
from stages.contract.item import Item
from stages.host.packed_item import LARGE_BYTES, PackedItem, packed, unpacked
from stages.llm.messages import Generate, ImageSpan, Sampling
from tests.cache.values import same


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def question(index: int, features: NDArray[Any]) -> Item[Generate]:
    span = ImageSpan(1, len(features), "x", {"features": features, "grid_thw": read_only(np.array([1, 2, 3]))})
    return Item(f"r:choice:{index}", Generate((1, 2), Sampling(4, seed=index), (span,)), deadline=9.0)


def test_choices_about_a_picture_share_its_features_and_nothing_else() -> None:
    features = read_only(np.arange(576 * 4096, dtype=np.uint16).reshape(576, 4096).view(BFLOAT16))
    for index in range(8):
        sent, beside = packed(question(index, features))
        assert [array is features for array in beside] == [True]
        assert isinstance(sent, PackedItem)
        assert len(sent.data) < 2000
        back = unpacked(sent, beside)
        assert (back.id, back.deadline) == (f"r:choice:{index}", 9.0)
        assert back.payload.sampling == Sampling(4, seed=index)
        assert same(back.payload.images[0].value, question(index, features).payload.images[0].value)
        assert np.shares_memory(back.payload.images[0].value["features"], features)


def test_what_is_small_goes_as_it_is() -> None:
    item = question(0, read_only(np.zeros((1, LARGE_BYTES - 1), np.uint8)))
    assert packed(item) == (item, [])
    assert unpacked(item, []) is item


def test_an_array_that_may_still_change_is_never_shared() -> None:
    item = question(0, np.zeros((1, LARGE_BYTES), np.uint8))
    assert packed(item) == (item, [])
