"""Whether anybody still waits for what this thread makes. Whoever has work done in a thread says how that can be told; the work asks
between its pieces, so that it ends soon after its request has.

Knows neither who waits nor what is made. What nobody has said anything of is wanted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from stages.contract.errors import Cancelled


def _always() -> bool:
    return True


_WANTED: ContextVar[Callable[[], bool]] = ContextVar("wanted", default=_always)


@contextmanager
def wanted_while(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """What this thread does inside is wanted as long as `is_wanted` says so. It may be asked at any time, on this thread."""
    before = _WANTED.set(is_wanted)
    try:
        yield
    finally:
        _WANTED.reset(before)


def stop_if_unwanted() -> None:
    """Raises `Cancelled` where nobody waits any more."""
    if not _WANTED.get()():
        raise Cancelled("nobody waits for this any more")
