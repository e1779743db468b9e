"""Items that share large bytes and arrays on their way to another process."""

import math
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
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

IMAGE = bytes(range(256)) * 4000


def question(index: int, image: Blob) -> Item[Generate]:
    span = ImageSpan(1, 576, Recipe("x", "m.vision_encoder", EncodeImage(image, 100), "messages"))
    return Item(f"r:choice:{index}", Generate((1, 2), Sampling(4, seed=index), (span,)), deadline=9.0)


def test_choices_about_an_image_share_its_bytes_and_nothing_else() -> None:
    image, shared = Blob(IMAGE), set[int]()
    for index in range(8):
        sent, beside = packed(question(index, image))
        (array,) = beside
        shared.add(id(array))
        assert isinstance(sent, PackedItem)
        assert len(sent.data) < 2000
        back = unpacked(sent, beside)
        assert back == question(index, image)
        assert bytes(back.payload.images[0].features.payload.data) == IMAGE
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


@pytest.mark.parametrize("other", [IMAGE, Blob(IMAGE[1:]), None])
def test_bytes_are_equal_to_equal_bytes_of_their_kind_only(other: object) -> None:
    assert Blob(IMAGE) == Blob(bytes(IMAGE))
    assert hash(Blob(IMAGE)) == hash(Blob(bytes(IMAGE)))
    assert (Blob(IMAGE) == other) is False
    assert len(Blob(IMAGE)) == len(IMAGE)


# ---- clocks that differ ----

ANOTHER_MACHINE = """
import pickle, sys, time

own, skew_s = time.time, float(sys.argv[1])
time.time = lambda: own() + skew_s

from stages.host.packed_item import unpacked

item = unpacked(*pickle.load(sys.stdin.buffer))
pickle.dump((item.deadline - time.time(), item), sys.stdout.buffer)
"""


def there_and_back(skew_s: float, item: Item[Any], beside: Sequence[NDArray[Any]] = ()) -> tuple[float, Item[Any]]:
    """Sends an item to a process whose clock differs: how long it thinks there is, and the item as it comes back."""
    program = [sys.executable, "-c", ANOTHER_MACHINE, str(skew_s)]
    sent = pickle.dumps((item, beside))
    answer = subprocess.run(program, input=sent, capture_output=True, check=True).stdout
    found: tuple[float, Item[Any]] = pickle.loads(answer)  # noqa: S301 - a process of ours
    return found


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
@pytest.mark.parametrize("size", [10, len(IMAGE)], ids=["small", "large"])
def test_how_long_there_is_means_the_same_where_the_clock_differs_by_an_hour(skew_s: float, size: int) -> None:
    deadline = time.time() + 100
    sent, beside = packed(replace(question(0, Blob(IMAGE[:size])), deadline=deadline))
    left_s, back = there_and_back(skew_s, sent, beside)  # type: ignore[arg-type]
    assert 40 < left_s <= 100
    assert abs(back.deadline - deadline) < 60


def test_what_has_no_deadline_has_none_anywhere() -> None:
    assert there_and_back(3600.0, Item("r", None)) == (math.inf, Item("r", None))


def test_what_is_packed_once_and_sent_twice_has_lost_the_time_between(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "time", lambda: now)
    sent, beside = packed(replace(question(0, Blob(IMAGE)), deadline=1100.0))
    now = 1060.0
    again = pickle.dumps(sent)
    now = -5000.0
    arrived = pickle.loads(again)  # noqa: S301 - our own
    assert unpacked(arrived, beside).deadline == -5000.0 + 40.0
