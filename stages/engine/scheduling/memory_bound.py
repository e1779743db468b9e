"""How much may share a step on a device that has run out of memory: the configured bounds, lowered and cautiously raised. Pure.

Memory goes by cost, so the cost bound is what is lowered: to half of the batch that did not fit, or to the most that has fitted.
From there the bound closes in on what fits, from below and by halves, every `SEARCH_PATIENCE` batches that went well. Where cost
cannot tell (it is 0), the count is lowered instead.

What took the memory may be gone later (a neighbour on the same device). So after `patience` batches in a row that went well
both bounds rise by a quarter, at least by one item. Each time that this proves too much the patience doubles, and after
`MAX_RETRIES` times the bounds stay where they are. Knows no device and no clock.
"""

import math

from stages.contract.limits import BatchLimits

SEARCH_PATIENCE = 4
CLOSE_ENOUGH = 0.9  # of what did not fit
PATIENCE = 64
MAX_RETRIES = 6
RISE = 1.25


class MemoryBound:
    """`limits` is what a batch may hold now."""

    def __init__(self, configured: BatchLimits, patience: int = PATIENCE) -> None:
        self._configured = configured
        self._items, self._cost = configured.max_items, configured.max_cost
        self._limits = configured
        self._fitted = 0.0  # the highest cost that went well
        self._too_much = math.inf  # the lowest above it that didn't
        self._patience, self._num_good = patience, 0
        self._is_retrying, self._num_retries = False, 0

    @property
    def limits(self) -> BatchLimits:
        if self._limits.max_items != self._items or self._limits.max_cost != self._cost:
            self._limits = BatchLimits(self._items, self._cost)
        return self._limits

    @property
    def is_lowered(self) -> bool:
        return self.limits != self._configured

    def ran_out(self, num_items: int, cost: float) -> None:
        """A batch of so many items (more than one), of so much cost in all, did not fit. It would not be formed again."""
        if self._is_retrying:
            self._is_retrying, self._num_retries, self._patience = False, self._num_retries + 1, 2 * self._patience
        self._num_good = 0
        self._fitted = self._fitted if self._fitted < cost else 0.0  # what fitted once need not fit now
        if cost > 0:
            self._too_much = cost
            self._cost = min(self._cost, max(cost / 2, self._fitted))
        else:
            self._items = min(self._items, max(1, num_items // 2))

    def went_well(self, cost: float) -> None:
        self._fitted = max(self._fitted, cost)
        if not self.is_lowered:
            return
        self._num_good += 1
        is_searching = self._too_much < math.inf and self._cost < CLOSE_ENOUGH * self._too_much
        if is_searching and self._num_good >= SEARCH_PATIENCE:
            self._num_good, self._cost = 0, min(self._configured.max_cost, (self._cost + self._too_much) / 2)
        elif not is_searching and self._num_good >= self._patience and self._num_retries < MAX_RETRIES:
            self._num_good, self._is_retrying, self._too_much = 0, True, math.inf
            self._items = min(self._configured.max_items, max(self._items + 1, int(self._items * RISE)))
            self._cost = min(self._configured.max_cost, self._cost * RISE)
