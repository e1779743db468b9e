"""How large the state machines are that a schema's multiples become: one for every different number, and one for what several of them
have in common, where the same value may be held to all of them.

Pure; decides no bound (`limits.py`), and refuses nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite, lcm
from typing import Any

_MERGING = frozenset({"allOf", "anyOf", "oneOf", "$ref", "patternProperties"})
"""Where these are, a value may be held to several schemas."""


@dataclass(frozen=True, slots=True)
class Multiple:
    """`path`: where it is said. `coefficient` and `places`: 0.025 is 25 with 3 places. `is_merged`: perhaps, with others of its schema."""

    path: str
    value: Any
    coefficient: int
    places: int
    is_merged: bool


def multiples(schema: Any) -> list[Multiple]:
    """Every number that `multipleOf` stands before, also in data: a reference can make a schema of it."""
    said = [*_everywhere(schema, "$")]
    is_merged = any(key in _MERGING for _, key, _ in said)
    found = []
    for path, key, value in said:
        if key == "multipleOf" and (number := _number(value)) is not None:
            found.append(Multiple(f"{path}.{key}", value, *number, is_merged))
    return found


def all_states(of_schemas: Sequence[Sequence[Multiple]]) -> int:
    """Of all schemas together; each is of multiples that are not very large."""
    numbers = {(one.coefficient, one.places) for found in of_schemas for one in found}
    numbers |= {_common(found) for found in of_schemas if found and found[0].is_merged}
    return sum(coefficient for coefficient, _ in numbers)


def _common(found: Sequence[Multiple]) -> tuple[int, int]:
    """The least number that is a multiple of all."""
    places = max(one.places for one in found)
    coefficient = lcm(*(one.coefficient * 10 ** (places - one.places) for one in found if one.coefficient))
    while places and coefficient % 10 == 0:
        coefficient, places = coefficient // 10, places - 1
    return coefficient, places


def _number(value: Any) -> tuple[int, int] | None:
    """None: it is none, and will be refused as what it is."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    number = Decimal(str(value)).normalize()
    digits, exponent = number.as_tuple().digits, int(number.as_tuple().exponent)
    return int("".join(map(str, digits)) + "0" * min(max(exponent, 0), 9)), max(-exponent, 0)


def _everywhere(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every key of every object with its value, and the object's path."""
    if isinstance(value, list):
        for place, one in enumerate(value):
            yield from _everywhere(one, f"{path}[{place}]")
    elif isinstance(value, dict):
        for key, one in value.items():
            yield path, key, one
            yield from _everywhere(one, f"{path}.{key}")
