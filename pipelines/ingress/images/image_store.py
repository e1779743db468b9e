"""Finished images, kept for a while under addresses that cannot be guessed (`response_format: "url"`).

Bounded in bytes and in time; what was asked for longest ago goes first, of the tenant who keeps the most. Lives in one process: with
several ingress replicas, ask for `b64_json`. Knows no HTTP.
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache


@dataclass(frozen=True, slots=True)
class KeptImage:
    data: bytes
    media_type: str


class ImageStore:
    """Any thread. `now` is a monotonic clock in seconds."""

    def __init__(self, *, capacity_bytes: int, keep_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._capacity_bytes, self._keep_s, self._now, self._lock = capacity_bytes, keep_s, now, threading.Lock()
        self._by_tenant: dict[str, TTLCache[str, KeptImage]] = {}

    def put(self, data: bytes, media_type: str, *, tenant: str) -> str:
        """The image's key: 256 random bits. The newest image is always kept, whatever its size; who keeps the most makes room."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            own = self._by_tenant.setdefault(tenant, self._empty())
            own[key] = KeptImage(data, media_type)
            while sum(kept.currsize for kept in self._by_tenant.values()) > self._capacity_bytes:
                others = [kept for kept in self._by_tenant.values() if len(kept) > (kept is own)]
                max(others, key=lambda kept: kept.currsize).popitem()
        return key

    def get(self, key: str) -> KeptImage | None:
        """None where it is unknown or its time is over."""
        with self._lock:
            return next((kept[key] for kept in self._by_tenant.values() if key in kept), None)

    def _empty(self) -> "TTLCache[str, KeptImage]":
        return TTLCache(self._capacity_bytes, self._keep_s, timer=self._now, getsizeof=self._size)

    def _size(self, image: KeptImage) -> int:
        """One over the capacity takes all of it: the cache would refuse it."""
        return min(len(image.data), self._capacity_bytes)
