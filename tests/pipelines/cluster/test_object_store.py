"""Arrays are put into the store once, and forgotten when they are gone here."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cluster.object_store import ObjectStore


def test_an_array_is_put_once_and_another_of_the_same_numbers_for_itself() -> None:
    puts: list[int] = []

    def put(array: NDArray[Any]) -> int:
        puts.append(array.nbytes)
        return len(puts)

    store = ObjectStore(put)
    first, second = np.zeros(10), np.zeros(10)
    assert [store.reference(array) for array in (first, second, first, second, first)] == [1, 2, 1, 2, 1]
    assert (puts, store.num_arrays) == ([80, 80], 2)


def test_an_array_that_is_gone_here_leaves_no_reference() -> None:
    store = ObjectStore(lambda array: object())
    array: NDArray[Any] = np.zeros(10)
    store.reference(array)
    del array
    assert store.num_arrays == 0
