"""How fast values of a page's size come out of Redis on this machine: what a fetch could not do without."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.cache.sides import KV_BYTES_PER_TOKEN
from cache.redis.embedded import EmbeddedRedis
from cache.redis.redis_tier import RedisTier
from cache.tier import Label

PAGE_TOKENS, PAGES = 64, 4
TIMES = 5
LABEL = Label("kv_page", "a secret")


def bytes_per_s() -> float:
    """The best of a few readings of several values at once, through the tier that replicas use: with its checks, without a model."""
    server = EmbeddedRedis(256 * 2**20)
    try:
        tier = RedisTier(server.url)
        try:
            return _read(tier)
        finally:
            tier.close()
    finally:
        server.close()


def _read(tier: RedisTier) -> float:
    page = np.random.default_rng(0).standard_normal(PAGE_TOKENS * KV_BYTES_PER_TOKEN // 4).astype(np.float32)
    values = {f"page {number}": {"keys": page} for number in range(PAGES)}
    tier.put_many(values, LABEL)
    tier.flush(30)
    best_s = float("inf")
    for _ in range(TIMES):
        began = time.monotonic()
        found = tier.get_many(list(values), LABEL)
        best_s = min(best_s, time.monotonic() - began)
        if len(found) < PAGES:
            raise RuntimeError(f"{PAGES - len(found)} of {PAGES} values were not found in a Redis that was just given them")
    return PAGES * page.nbytes / best_s
