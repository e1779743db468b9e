"""Finished pictures, kept for a while under addresses that cannot be guessed (`response_format: "url"`).

Bounded in bytes and in time; what was asked for longest ago goes first. Lives in one process: with several ingress replicas, ask
for `b64_json`. Knows no HTTP.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache


@dataclass(frozen=True, slots=True)
class KeptPicture:
    data: bytes
    media_type: str


class PictureStore:
    """Any thread. `now` is a monotonic clock in seconds."""

    def __init__(self, *, capacity_bytes: int, keep_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._capacity_bytes, self._lock = capacity_bytes, threading.Lock()
        self._pictures = TTLCache[str, KeptPicture](capacity_bytes, keep_s, timer=now, getsizeof=self._size)

    def put(self, data: bytes, media_type: str) -> str:
        """The picture's key: 256 random bits. The newest picture is always kept, whatever its size."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._pictures[key] = KeptPicture(data, media_type)
        return key

    def get(self, key: str) -> KeptPicture | None:
        """None where it is unknown or its time is over."""
        with self._lock:
            return self._pictures.get(key)

    def _size(self, picture: KeptPicture) -> int:
        """One over the capacity takes all of it: the cache would refuse it."""
        return min(len(picture.data), self._capacity_bytes)
