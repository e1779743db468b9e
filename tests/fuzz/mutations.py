"""Almost right: real bytes, and real documents, with a few things changed. Strategies for hypothesis; they know no format."""

import copy
import struct
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

Bytes = st.SearchStrategy[bytes]

_MOST_CHANGES = 6
_EDGES = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
]  # where sizes and signs turn over
_NUMBERS = [
    struct.pack(f"{order}{kind}", edge)
    for edge in _EDGES
    for kind in "BHI"
    for order in "<>"
    if edge < 1 << 8 * struct.calcsize(kind)
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "../..", "file:///etc/passwd", "{{ 7 * 7 }}", "a" * 10_000]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
"""Anything that YAML or JSON can say."""


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes], pieces: Sequence[bytes] = ()) -> bytes:
    """One of `seeds` with up to six changes: bytes overwritten, cut out, doubled, put in. `pieces` are put in, too: what means
    something in the format."""
    data = bytearray(draw(st.sampled_from(seeds)))
    foreign = st.sampled_from([*_NUMBERS, *pieces]) | st.binary(min_size=1, max_size=16)
    for _ in range(draw(st.integers(0, _MOST_CHANGES))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, min(len(data) - start, 64)))
        match draw(st.sampled_from(["overwrite", "insert", "cut", "double", "end"])):
            case "overwrite":
                given = draw(foreign)
                data[start : start + len(given)] = given
            case "insert":
                data[start:start] = draw(foreign)
            case "cut":
                del data[start : start + length]
            case "double":
                data[start:start] = data[start : start + length] * draw(st.integers(1, 64))
            case "end":
                del data[start:]
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, seeds: Sequence[Any], values: st.SearchStrategy[Any] = VALUES) -> Any:
    """One of `seeds` (documents of dicts, lists and scalars) with one to six changes: a value replaced, a member dropped, doubled or
    put in under another name."""
    document = copy.deepcopy(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, _MOST_CHANGES))):
        places = list(_places(document))
        if not places:
            return draw(values)
        parent, key = draw(st.sampled_from(places))
        _CHANGES[draw(st.sampled_from(sorted(_CHANGES)))](draw, parent, key, values)
    return document


def _places(document: Any) -> Any:
    """(container, key) of every member, at any depth."""
    members = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in list(members):
        yield document, key
        yield from _places(value)


def _replace(draw: st.DrawFn, parent: Any, key: Any, values: st.SearchStrategy[Any]) -> None:
    parent[key] = draw(values)


def _drop(draw: st.DrawFn, parent: Any, key: Any, values: st.SearchStrategy[Any]) -> None:
    del parent[key]


def _add(draw: st.DrawFn, parent: Any, key: Any, values: st.SearchStrategy[Any]) -> None:
    if isinstance(parent, dict):
        parent[draw(st.text(max_size=8))] = draw(values)
    else:
        parent.insert(key, draw(values))


def _double(draw: st.DrawFn, parent: Any, key: Any, values: st.SearchStrategy[Any]) -> None:
    if isinstance(parent, dict):
        parent[f"{key}2"] = copy.deepcopy(parent[key])
    else:
        parent[key:key] = [copy.deepcopy(parent[key]) for _ in range(draw(st.integers(1, 40)))]


_Change = Callable[[st.DrawFn, Any, Any, st.SearchStrategy[Any]], None]
_CHANGES: dict[str, _Change] = {"replace": _replace, "drop": _drop, "add": _add, "double": _double}
