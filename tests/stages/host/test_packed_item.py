"""Items that share large bytes and arrays on their way to another process."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache.codec import BFLOAT16
from stages.contract.blob import Blob
from stages.contract.item import Item
from stages.contract.recipe import Recipe
from stages.diffusion.messages import DecodeLatents, Latents
from stages.host.packed_item import LARGE_BYTES, PackedItem, packed, unpacked
from stages.llm.messages import Generate, ImageSpan, Sampling
from stages.vision.messages import EncodeImage

PICTURE = bytes(range(256)) * 4000


def question(index: int, picture: Blob) -> Item[Generate]:
    span = ImageSpan(1, 576, Recipe("x", "m.vision_encoder", EncodeImage(picture, 100), "messages"))
    return Item(f"r:choice:{index}", Generate((1, 2), Sampling(4, seed=index), (span,)), deadline=9.0)


def test_choices_about_a_picture_share_its_bytes_and_nothing_else() -> None:
    picture, shared = Blob(PICTURE), set[int]()
    for index in range(8):
        sent, beside = packed(question(index, picture))
        (array,) = beside
        shared.add(id(array))
        assert isinstance(sent, PackedItem)
        assert len(sent.data) < 2000
        back = unpacked(sent, beside)
        assert back == question(index, picture)
        assert bytes(back.payload.images[0].features.payload.data) == PICTURE
    assert len(shared) == 1


def test_arrays_of_results_go_beside_without_a_copy() -> None:
    latents = np.arange(4 * 128 * 128, dtype=np.uint16).reshape(4, 128, 128).view(BFLOAT16)
    latents.flags.writeable = False
    sent, beside = packed(Item("r", DecodeLatents(Latents(latents))))
    assert [array is latents for array in beside] == [True]
    back: NDArray[Any] = unpacked(sent, beside).payload.latents.latents
    assert back.dtype == BFLOAT16
    assert np.shares_memory(back, latents)


def test_what_is_small_goes_as_it_is() -> None:
    item = question(0, Blob(b"x" * (LARGE_BYTES - 1)))
    assert packed(item) == (item, [])
    assert unpacked(item, []) is item


def test_an_array_that_may_still_change_is_never_shared() -> None:
    item = Item("r", DecodeLatents(Latents(np.zeros((4, 128, 128), np.float32))))
    assert packed(item)[1] == []


@pytest.mark.parametrize("other", [PICTURE, Blob(PICTURE[1:]), None])
def test_bytes_are_equal_to_equal_bytes_of_their_kind_only(other: object) -> None:
    assert Blob(PICTURE) == Blob(bytes(PICTURE))
    assert hash(Blob(PICTURE)) == hash(Blob(bytes(PICTURE)))
    assert (Blob(PICTURE) == other) is False
    assert len(Blob(PICTURE)) == len(PICTURE)
