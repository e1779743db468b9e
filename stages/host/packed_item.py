"""An item for another process, with its large arrays beside it, so that several items can share one copy of them.

Decides which arrays go beside. Knows no transport: pickled with buffers out of band (PEP 574), as items travel anyway.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract.blob import Blob
from stages.contract.item import Item
from stages.contract.message import message, readable

LARGE_BYTES = 100 * 1024
"""Smaller ones travel in the message: a call's arguments up to this size do so anyway."""


@message(time_left=["deadline"], droppable=["in_pieces"])
@dataclass(frozen=True, slots=True)
class PackedItem:
    """`data` lacks the arrays that go beside it, in their order. `deadline`: the item's, told as an item's is; what is in `data`
    was right when it was packed, which may be several tries ago. `in_pieces`: who sent it takes what it is told as bytes
    (`pipelines/cluster/pieces.py`)."""

    data: bytes
    deadline: float
    in_pieces: bool = False


def packed(item: Item[Any], *, small_bytes: int = 0) -> tuple[Item[Any] | PackedItem, Sequence[NDArray[Any]]]:
    """The item as it is where it holds nothing large that could be shared, unless it is of `small_bytes` at most: then as bytes, and to
    be answered in pieces. Arrays that somebody may still change are not shared."""
    beside: list[NDArray[Any]] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        array = memoryview(buffer).obj
        if not isinstance(array, np.ndarray) or array.nbytes < LARGE_BYTES or array.flags.writeable:
            return True
        beside.append(array)
        return False

    data = pickle.dumps(item, protocol=5, buffer_callback=stays)
    if beside:
        return PackedItem(data, item.deadline), beside
    return (PackedItem(data, item.deadline, in_pieces=True) if len(data) <= small_bytes else item), []


def as_bytes(item: Item[Any], *, max_bytes: int) -> PackedItem | None:
    """The item as bytes with all its arrays, to be answered in pieces; None: that is more."""
    if _num_bytes(item.payload) > max_bytes:
        return None
    data = pickle.dumps(item, protocol=5)
    return PackedItem(data, item.deadline, in_pieces=True) if len(data) <= max_bytes else None


def _num_bytes(value: object) -> int:
    """Of what is mostly large in an item, told without pickling it: arrays, and bytes."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, bytes | Blob):
        return len(value)
    if is_dataclass(value):
        return sum(_num_bytes(getattr(value, each.name)) for each in fields(value))
    return 0


def unpacked(item: Item[Any] | PackedItem, beside: Sequence[NDArray[Any]]) -> Item[Any]:
    """The item, its large arrays being those beside it, without a copy. From this application's own processes only. Raises `Unreadable` for
    what one of another version sent."""
    item = readable(item)
    if isinstance(item, PackedItem):
        found: Item[Any] = pickle.loads(item.data, buffers=beside)  # noqa: S301 - as Ray itself does with a call's arguments
        return replace(readable(found), deadline=item.deadline)
    return item
