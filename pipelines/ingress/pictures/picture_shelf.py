"""Finished pictures, kept for a while under addresses that cannot be guessed (`response_format: "url"`).

Bounded in bytes and in time; the oldest go first. Lives in one process: with several ingress replicas, ask for `b64_json`.
Knows no HTTP.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """`expires`: in the shelf's own clock, seconds."""

    data: bytes
    media_type: str
    expires: float


class PictureShelf:
    """`now` is a monotonic clock in seconds."""

    def __init__(self, *, capacity_bytes: int, keep_s: float, now: Callable[[], float]) -> None:
        self._capacity_bytes, self._keep_s, self._now = capacity_bytes, keep_s, now
        self._pictures = OrderedDict[str, KeptPicture]()
        self._size_bytes = 0

    def put(self, data: bytes, media_type: str) -> str:
        """The picture's id: 256 random bits. Makes room by forgetting the oldest; the newest is always kept."""
        key = secrets.token_urlsafe(32)
        self._drop_expired()
        self._pictures[key] = KeptPicture(data, media_type, self._now() + self._keep_s)
        self._size_bytes += len(data)
        while self._size_bytes > self._capacity_bytes and len(self._pictures) > 1:
            self._drop_oldest()
        return key

    def get(self, key: str) -> KeptPicture | None:
        """None where it is unknown or its time is over."""
        self._drop_expired()
        return self._pictures.get(key)

    def _drop_expired(self) -> None:
        now = self._now()
        while self._pictures and next(iter(self._pictures.values())).expires <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, picture = self._pictures.popitem(last=False)
        self._size_bytes -= len(picture.data)
