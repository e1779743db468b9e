"""What drawing a token must know of every row, beside the logits: brought there in one piece. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.device.uploads import uploaded
from stages.llm.messages import Sampling
from stages.llm.sampling.noise import row_keys

_LEAST_TEMPERATURE = 1e-30
"""In float32 still a number to divide by, and greedy."""

_NO_VOCABULARY = 2**31
"""More tokens than any has."""


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """On one device: `key` [rows, 1] int64 of a row's noise (`noise.row_keys`), and [rows] each: `top_k` int64, `temperature` (more than
    0), `top_p` and `min_p` float64."""

    key: Tensor
    top_k: Tensor
    temperature: Tensor
    top_p: Tensor
    min_p: Tensor

    @classmethod
    def of(
        cls, settings: Sequence[Sampling], device: torch.device, keyed: Sequence[tuple[int, int]] | None = None
    ) -> "RowNumbers":
        """`keyed`: a row's seed and position each; no key where nothing is drawn."""
        whole, real = np.zeros((2, len(settings)), np.int64), np.empty((3, len(settings)))
        whole[1] = [min(one.top_k, _NO_VOCABULARY) for one in settings]
        if keyed is not None:
            whole[0] = row_keys(*torch.from_numpy(np.array(keyed, np.int64).T)).numpy()[:, 0]
        real[0] = [max(one.temperature, _LEAST_TEMPERATURE) for one in settings]
        real[1], real[2] = [one.top_p for one in settings], [one.min_p for one in settings]
        numbers = uploaded(torch.from_numpy(np.concatenate([whole, real.view(np.int64)])), device)
        return cls(numbers[0, :, None], numbers[1], *numbers[2:].view(torch.float64))
