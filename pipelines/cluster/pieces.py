"""What a stage tells of an answer, as bytes for a transport that bounds its messages.

Decides how large a piece is, and tells the last of a value from those before it. Knows no transport and no event.
"""

import pickle
from collections.abc import Iterator
from typing import Any

from stages.contract.errors import Unreadable
from stages.contract.message import RETRY_AFTER_S

MAX_BYTES = 1024 * 1024
"""Of a piece, and of an item that is sent so: a quarter of what gRPC takes by default."""
_LAST, _GOES_ON = b"\x00", b"\x01"


def pieces(value: Any) -> Iterator[bytes]:
    data = pickle.dumps(value, protocol=5)
    if len(data) < MAX_BYTES:
        yield _LAST + data
        return
    step = MAX_BYTES - 1
    for start in range(0, len(data), step):
        yield (_LAST if start + step >= len(data) else _GOES_ON) + data[start : start + step]


class Joined:
    """The values of one stream, in their order. From this application's own processes only."""

    def __init__(self) -> None:
        self._held: list[memoryview] = []

    def add(self, told: Any) -> Any:
        """The value that is whole with this piece; None: more is to come. What is no piece is a value itself: processes of an earlier
        version tell so. Raises `Unreadable` for what a later version may have told."""
        if not isinstance(told, bytes):
            return told
        rest = memoryview(told)[1:]
        if told[:1] == _GOES_ON:
            self._held.append(rest)
            return None
        if self._held:
            rest = memoryview(b"".join([*self._held, rest]))
            self._held.clear()
        try:
            return pickle.loads(rest)  # noqa: S301 - as Ray itself does with what replicas tell
        except Exception as error:
            raise Unreadable(
                "a replica and who calls it are of two versions; try again",
                retry_after_s=RETRY_AFTER_S,
                detail=f"{type(error).__name__}: {error}",
            ) from None
