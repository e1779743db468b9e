"""Redis tiers with a clock that is turned by hand, and a value to put into them."""

from collections.abc import Callable

import numpy as np

from cache.redis.redis_tier import RedisTier

A = {"x": np.arange(8, dtype=np.float32)}


class Clock:
    """Turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


Open = Callable[..., RedisTier]


def put(tier: RedisTier, key: str = "a") -> None:
    tier.put_many({key: A})
    assert tier.flush(30)
