"""What is remembered of a prompt's beginning: the keys and values of one page. Torch-free. Decides nothing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract.result import Result

Grid = tuple[int, int, int]
"""An image's patches in time, height and width, before merging."""


@dataclass(frozen=True, slots=True)
class KvPage(Result):
    """Of the tokens of one page. `keys` and `values`: flat, since layers may differ: of every layer that has keys of its own, in turn,
    [heads, tokens, dim], in the dtype that they were computed in; or int8, to be multiplied by the scales. `key_scales` and
    `value_scales`: float32, flat, of every layer in turn: [heads, dim], and [heads, tokens]. `grids`: [images, 3] int64, of the images
    that begin in the page, in order, where the model's positions depend on them (None: none begins there)."""

    keys: NDArray[Any]
    values: NDArray[Any]
    key_scales: NDArray[np.float32] | None = None
    value_scales: NDArray[np.float32] | None = None
    grids: NDArray[np.int64] | None = None
