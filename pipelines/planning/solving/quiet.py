"""Keeps a C library's own words off standard output.

HiGHS, as scipy ships it, prints a line for some solutions whatever it is told (`transformNewIntegerFeasibleSolution`), which would stand in
the middle of a plan that is printed as JSON. Decides nothing else.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

STANDARD_OUTPUT = 1


@contextmanager
def quiet() -> Iterator[None]:
    """What C code prints meanwhile goes nowhere."""
    library = ctypes.CDLL(None)
    library.fflush(None)
    kept, nowhere = os.dup(STANDARD_OUTPUT), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STANDARD_OUTPUT)
    try:
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, STANDARD_OUTPUT)
        os.close(kept)
        os.close(nowhere)
