"""How much may wait, and how much may run together: plain numbers, kept by `stages/engine/scheduling/`."""

import math
from dataclasses import dataclass

from stages.contract.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batch, or of one step. `max_cost` is in the stage's own work unit; a single item above it runs alone."""

    max_items: int = 16
    max_cost: float = math.inf

    def __post_init__(self) -> None:
        _check("batch", self.max_items, self.max_cost)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Bounds of what waits. `max_cost` is in the stage's own work unit; a single item above it is taken into an empty queue. One
    tenant may fill the queue; where it is full, others are let in up to an equal part of it (`stages/engine/scheduling/room.py`).

    What waits for an iterative stage costs what its first step will, as `IterativeStage.weigh` tells from the payload.
    """

    max_items: int = 256
    max_cost: float = math.inf

    def __post_init__(self) -> None:
        _check("queue", self.max_items, self.max_cost)


def _check(path: str, max_items: int, max_cost: float) -> None:
    if max_items < 1:
        raise ConfigurationError(f"{path}.max_items: {max_items} is not allowed; it is at least 1")
    if not max_cost > 0:
        raise ConfigurationError(f"{path}.max_cost: {max_cost} is not allowed; it is more than 0")
