"""Which of some things each request of a load is about, where a share of the requests is about what was asked about before. Pure."""

from __future__ import annotations

import random


def traffic(count: int, *, reuse: float, seed: int) -> list[int]:
    """Numbers of things, from 0 in the order of their first request. `reuse`: the share of requests about one that was there before,
    to the nearest request (the first is always new); which one of those by Zipf's law: the n-th that came is asked about 1/n as
    often as the first. The new ones are spread evenly."""
    num_new = max(1, round(count * (1 - reuse)))
    new_at = {index * count // num_new for index in range(num_new)}
    source = random.Random(seed)
    asked: list[int] = []
    num_known = 0
    for index in range(count):
        if index in new_at:
            asked.append(num_known)
            num_known += 1
        else:
            asked.extend(source.choices(range(num_known), weights=[1 / (rank + 1) for rank in range(num_known)]))
    return asked


def reused(asked: list[int]) -> float:
    """The share of requests about what was asked about before."""
    return 1 - len(set(asked)) / len(asked)
