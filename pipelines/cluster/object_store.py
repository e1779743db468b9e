"""Arrays in Ray's object store: each put there once, however many calls are given it, for as long as it lives here.

Knows neither stages nor requests. The store's copy belongs to this process, whose requests are the only ones that need it.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import ray
from numpy.typing import NDArray


class ObjectStore:
    """`put` takes an array and gives a reference, which Ray replaces by the array where it is an argument of its own."""

    def __init__(self, put: Callable[[NDArray[Any]], Any] = ray.put) -> None:
        self._put = put
        self._references: dict[int, Any] = {}
        self._lock = threading.Lock()

    def reference(self, array: NDArray[Any]) -> Any:
        """The same for the same read-only array."""
        key = id(array)
        with self._lock:
            if key not in self._references:
                self._references[key] = self._put(array)
                weakref.finalize(array, self._references.pop, key, None)
            return self._references[key]

    @property
    def num_arrays(self) -> int:
        """That live in this process and are in the store."""
        return len(self._references)
