"""Calls that are written as Python: `[get_weather(city="Bern", days=3), now()]`. Reads literals, and runs nothing."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.tools.json_reading import json_text

_WORDS: Mapping[str, object] = {"true": True, "false": False, "null": None}
MAX_CHARS = 100_000  # of a list of calls: what is longer is none


@dataclass(frozen=True, slots=True)
class WrittenCall:
    """`arguments`: JSON text of an object."""

    name: str
    arguments: str


class ListScan:
    """Where a list in a text that comes in pieces ends, from its first character on: by strings and brackets alone."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def end(self, text: str, start: int) -> int | None:
        """Where in `text`, of which it has seen what is before `start`, the list has ended; None: not yet."""
        for at in range(start, len(text)):
            self._take(text[at])
            if not self._depth and not self._quote:
                return at + 1
        return None

    def _take(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quote:
            self._escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
        elif character in "\"'":
            self._quote = character
        elif character in "[({":
            self._depth += 1
        elif character in "])}":
            self._depth -= 1


def calls_of(text: str) -> tuple[WrittenCall, ...]:
    """Of a list of calls. Raises `ValueError` for anything else."""
    try:
        found = ast.parse(text.strip(), mode="eval").body
        if not isinstance(found, ast.List) or not found.elts:
            raise ValueError("it is no list of calls")
        return tuple(map(_call, found.elts))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is no list of calls: {error}") from error


def _call(node: ast.expr) -> WrittenCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("every member must be a call with named arguments")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments must have names")
        arguments[keyword.arg] = _value(keyword.value)
    return WrittenCall(_name(node.func), json_text(arguments))


def _name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_name(value)}.{name}"
        case _:
            raise ValueError("a function is called by its name")


def _value(node: ast.expr) -> object:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.List(elts=members) | ast.Tuple(elts=members):
            return [_value(member) for member in members]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case _:
            raise ValueError("arguments must be literals")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("the keys of an object must be strings")
