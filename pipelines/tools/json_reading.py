"""Where a JSON value in a text that comes in pieces ends. Decides by strings and brackets alone: whether what lies between is JSON, who
needs to know finds out by reading it."""

import json
import re
from collections.abc import Callable
from typing import Any

from pipelines.tools.events import AnswerEvent
from pipelines.tools.unread import Reading, Unread

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')
_SCALAR_END = re.compile(r"[,}\]\s;]")


class ValueScan:
    """Of one object, array or string, from its first character on."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def end(self, text: str, start: int = 0) -> int | None:
        """Where in `text`, of which it has seen what is before `start`, the value has ended; None: not yet."""
        at = start
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            mark = (_INSIDE if self._in_string else _OUTSIDE).search(text, at)
            if mark is None:
                return None
            at = mark.end()
            if self._ends_with(mark.group()):
                return at
        return None

    def _ends_with(self, mark: str) -> bool:
        if mark == "\\":
            self._escaped = True
        elif mark == '"':
            self._in_string = not self._in_string
        else:
            self._depth += 1 if mark in "{[" else -1
        return self._depth <= 0 and not self._in_string and not self._escaped


def value_end(source: Unread, at: int) -> Reading[int | None]:
    """Where the value that begins at `at` ends; None where the text ends first."""
    if not (yield from source.has(at)):
        return None
    if source.rest[at] not in '{["':
        while (end := _SCALAR_END.search(source.rest, at)) is None:
            if source.ended:
                return None
            yield None
        return end.start()
    scan, seen = ValueScan(), at
    while True:
        found = scan.end(source.rest, seen)
        if found is not None or source.ended:
            return found
        seen = len(source.rest)
        yield None


def told_value(source: Unread, tell: Callable[[str], AnswerEvent]) -> Reading[None]:
    """Tells the object that the text begins with, as it comes."""
    scan = ValueScan()
    while True:
        end = scan.end(source.rest)
        if piece := source.take(len(source.rest) if end is None else end):
            yield tell(piece)
        if end is not None or source.ended:
            return
        yield None


def value_of(text: str) -> Any:
    """Raises `ValueError` for what is no JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_text(value: object) -> str:
    """Raises `ValueError` for what JSON has no word for."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return text if is_text(text) else json.dumps(value, allow_nan=False)


def is_text(text: str) -> bool:
    """Whether it can be sent: half a surrogate pair, which JSON can spell, can't."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
