"""Records what a GPU is given to do as a CUDA graph, and replays it with one launch. Decides nothing; knows no model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_WARMING_UP = 2
"""Runs before one is recorded: libraries choose kernels and take memory of their own in the first."""


class CudaGraphs:
    """A `Record` (`stages/llm/model/decoding/recorded.py`) on one device. All graphs share memory, so the result of one lasts until the
    next is replayed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARMING_UP):
                    compute()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Other stages of this process may take memory meanwhile, each on its own thread.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = compute()
        return _Graph(graph, compute, result)


@dataclass(frozen=True, slots=True)
class _Graph:
    """`compute` is what was recorded: the graph reads what it holds, so that must stay where it is."""

    graph: torch.cuda.CUDAGraph
    compute: Callable[[], Tensor]
    result: Tensor

    def __call__(self) -> Tensor:
        self.graph.replay()
        return self.result
