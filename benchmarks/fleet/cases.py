"""Simulations one after another, or several at a time on as many cores: they know nothing of each other. Decides only that what is found
comes in the order of what was asked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from benchmarks.reporting.command import tell

Found = TypeVar("Found")
Case = tuple[str, Callable[[], Found]]
"""In words, and what does it: for another process, a function of a module (`functools.partial`)."""


def each(cases: Sequence[Case[Found]], jobs: int = 1) -> Iterator[Found]:
    if jobs <= 1:
        yield from map(_told, cases)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from [future.result() for future in [pool.submit(_told, case) for case in cases]]


def without_collecting(case: Callable[[], Found]) -> Found:
    """What a simulation makes ends by itself; to look for circles in it again and again takes a fifth of the time."""
    gc.disable()
    try:
        return case()
    finally:
        gc.enable()
        gc.collect()


def _told(case: Case[Found]) -> Found:
    name, do = case
    tell(name)
    return without_collecting(do)
