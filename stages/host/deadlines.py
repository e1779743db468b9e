"""An item's deadline, on an event loop: how long there is, what happens when there is no more, and what is said then."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

from stages.contract.errors import DeadlineExceeded
from stages.contract.item import Item


def remaining_s(item: Item[Any]) -> float | None:
    """Until the deadline, never less than 0. None: it has none."""
    return None if math.isinf(item.deadline) else max(0.0, item.deadline - time.time())


def at_deadline(item: Item[Any], act: Callable[[], object]) -> Callable[[], None]:
    """Calls `act` when the item's time is up. Returns what calls that off."""
    left_s = remaining_s(item)
    if left_s is None:
        return lambda: None
    return asyncio.get_running_loop().call_later(left_s, act).cancel


def too_late(where: str) -> DeadlineExceeded:
    """`where`: where the time went, as half a sentence."""
    return DeadlineExceeded(f"the request's time is up: {where}")
