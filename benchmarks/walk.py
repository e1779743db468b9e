"""Counts the hops of what runs: how often something goes from one of our modules into another, each pair of functions once, however often
it happens. Decides what a hop is; knows nothing of what runs.

A hop is a call from a function of one module to a function of another, or into a function of ours by what is not ours: the event loop
(a task's beginning, a callback), a thread (what a pool or an engine was handed), a library. So what costs a reader a change of file, and a
request a change of hands, counts; loops and tokens don't.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

OUTSIDE = "outside"
"""What is not ours: the event loop, threads, libraries."""


class Walk:
    """Of what is under these folders of `root`, on all threads that begin after it was made, and this one."""

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self._root, self._folders = f"{root}/", tuple(f"{root}/{folder}/" for folder in folders)
        self._counting = False
        self.hops: set[tuple[str, str]] = set()
        self.threads: set[str] = set()
        threading.setprofile(self._look)
        sys.setprofile(self._look)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What runs inside is counted, from nothing."""
        self.hops, self.threads = set(), set()
        self._counting = True
        try:
            yield
        finally:
            self._counting = False

    def close(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    @property
    def modules(self) -> set[str]:
        return {callee.split(":")[0] for _, callee in self.hops}

    def by_folder(self) -> Counter[str]:
        """Hops, by the folder of whoever is called."""
        return Counter(callee.split("/")[0] for _, callee in self.hops)

    @property
    def num_from_outside(self) -> int:
        return sum(caller == OUTSIDE for caller, _ in self.hops)

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not self._counting or not frame.f_code.co_filename.startswith(self._folders):
            return
        caller, callee = frame.f_back, frame.f_code
        if caller is not None and caller.f_code.co_filename == callee.co_filename:
            return
        is_ours = caller is not None and caller.f_code.co_filename.startswith(self._folders)
        self.hops.add((self._named(caller.f_code) if is_ours and caller is not None else OUTSIDE, self._named(callee)))
        self.threads.add(threading.current_thread().name)

    def _named(self, code: CodeType) -> str:
        return f"{code.co_filename.removeprefix(self._root)}:{code.co_qualname}"
