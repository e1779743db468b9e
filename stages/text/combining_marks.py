"""Combining marks in canonical order, so that whoever normalizes a text has nothing left to sort. Pure.

CPython's `unicodedata.normalize` sorts a run of marks by insertion (Unicode Standard, D109): a run of 200,000 alternating ones takes
it minutes, under the interpreter's lock. Sorted beforehand the text is canonically equivalent, and its normal forms are the same.
"""

from itertools import groupby
from unicodedata import combining, normalize

LONG_RUN = 64  # nobody writes so many; sorting a shorter run by insertion costs nothing
_STARTING_WITH_MARKS = frozenset("\u0f73\u0f75\u0f81")
"""The only characters of class 0 that decompose into marks alone."""


def in_canonical_order(text: str) -> str:
    """`text`, the long runs of combining marks in it decomposed and sorted by their class."""
    if text.isascii():
        return text
    return "".join(_sorted(list(run)) if is_mark else "".join(run) for is_mark, run in groupby(text, _is_mark))


def _is_mark(character: str) -> bool:
    return combining(character) > 0 or character in _STARTING_WITH_MARKS


def _sorted(marks: list[str]) -> str:
    if len(marks) > LONG_RUN:
        marks = sorted((one for mark in marks for one in normalize("NFD", mark)), key=combining)
    return "".join(marks)
