"""The calls in an answer's text, read as they come: which function, and its arguments piece by piece.

Decides by what stands there how a call is written: as an object with a name and arguments, as a list of those, as Python, as tags, or as
a name and then an object. What turns out to be no call is left where it is. Knows no markers: who reads them is `answer.py`.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from pipelines.tools.events import AnswerEvent, ToolArgumentsDelta, ToolCallBegun
from pipelines.tools.formats import NamedMarks
from pipelines.tools.json_reading import is_text, json_text, told_value, value_end, value_of
from pipelines.tools.pythonic import MAX_CHARS, ListScan, WrittenCall, calls_of
from pipelines.tools.tagged import ArgumentTypes, tagged_call
from pipelines.tools.unread import Reading, Unread

NAME_KEYS, ARGUMENT_KEYS = ("name", "function"), ("arguments", "parameters")
MAX_NAME_CHARS = 256
TAG_END = "</function>"
_BARE_NAME = re.compile(r"([A-Za-z0-9_.\-]{1,64})(?::\d+)?")


@dataclass(slots=True)
class Calls:
    """Those of one answer so far. `known`: the only functions that are called; None: any. `may_go_on`: several calls."""

    new_id: Callable[[], str]
    known: Collection[str] | None = None
    types: ArgumentTypes | None = None
    may_go_on: bool = True
    num: int = 0
    _dropped: bool = field(default=False)

    def is_one(self, name: object) -> bool:
        """Whether a call may say it for a name."""
        return isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and is_text(name) and self._is_known(name)

    def begun(self, name: str) -> Reading[None]:
        self._dropped = bool(self.num) and not self.may_go_on
        if not self._dropped:
            yield ToolCallBegun(self.num, self.new_id(), name)
            self.num += 1

    def argued(self, text: str) -> AnswerEvent | None:
        """More of the last call's arguments."""
        return None if self._dropped else ToolArgumentsDelta(self.num - 1, text)

    def whole(self, name: str, arguments: str) -> Reading[None]:
        yield from self.begun(name)
        if (event := self.argued(arguments)) is not None:
            yield event

    def _is_known(self, name: str) -> bool:
        return self.known is None or name in self.known


def read_calls(source: Unread, calls: Calls, marks: NamedMarks) -> Reading[bool]:
    """One call, or a list of them; False: what stands there is none, and nothing of it is taken. `marks`: about a function's
    name, where it is not within an object."""
    at = yield from source.past_space()
    if not (yield from source.has(at)):
        return False
    match source.rest[at]:
        case "{":
            return (yield from _object(source, calls, at))
        case "[":
            return (yield from _list(source, calls, at))
        case "<" if (yield from source.starts("<function=", at)):
            return (yield from _tagged(source, calls, at))
        case _:
            return (yield from _named(source, calls, at, marks))


def _list(source: Unread, calls: Calls, at: int) -> Reading[bool]:
    inside = yield from source.past_space(at + 1)
    if not (yield from source.has(inside)):
        return False
    if source.rest[inside] != "{":
        return (yield from _pythonic(source, calls, at))
    if not (yield from _object(source, calls, inside)):
        return False
    while True:
        at = yield from source.past_space()
        if not (yield from source.has(at)) or source.rest[at] not in ",;":
            break
        if not (yield from _object(source, calls, (yield from source.past_space(at + 1)))):
            break
    if source.rest.startswith("]", at):
        source.take(at + 1)
    return True


def _object(source: Unread, calls: Calls, at: int) -> Reading[bool]:
    """An object with a name and arguments, in any order; what else it holds is passed over."""
    name: str | None = None
    arguments: str | None = None
    if not source.rest.startswith("{", at):
        return False
    at += 1
    while True:
        member = yield from _member(source, at)
        if member is None:
            return False
        key, at = member
        if key is None:
            break
        if key in ARGUMENT_KEYS and name is not None and source.rest.startswith("{", at):
            source.take(at)
            yield from _streamed(source, calls, name)
            yield from _closed(source)
            return True
        end = yield from value_end(source, at)
        if end is None:
            return False
        raw, at = source.rest[at:end], end
        if key in NAME_KEYS and name is None:
            name = _text(raw)
            if not calls.is_one(name):
                return False
        elif key in ARGUMENT_KEYS:
            arguments = raw
    if name is None:
        return False
    source.take(at)
    yield from calls.whole(name, _arguments(arguments))
    return True


def _member(source: Unread, at: int) -> Reading[tuple[str | None, int] | None]:
    """The next member's name, and where its value begins; at the object's end no name, and where that is; None: neither stands there."""
    while True:
        at = yield from source.past_space(at)
        if not (yield from source.has(at)):
            return None
        if source.rest[at] == "}":
            return None, at + 1
        if source.rest[at] != ",":
            return (yield from _key(source, at))
        at += 1


def _key(source: Unread, at: int) -> Reading[tuple[str | None, int] | None]:
    """A member's name, and where its value begins."""
    if source.rest[at] != '"':
        return None
    end = yield from value_end(source, at)
    if end is None:
        return None
    colon = yield from source.past_space(end)
    if not (yield from source.has(colon)) or source.rest[colon] != ":":
        return None
    value = yield from source.past_space(colon + 1)
    key = _text(source.rest[at:end])
    return (key, value) if key is not None and (yield from source.has(value)) else None


def _streamed(source: Unread, calls: Calls, name: str) -> Reading[None]:
    """Arguments that the text begins with."""
    yield from calls.begun(name)
    for event in told_value(source, lambda text: ToolArgumentsDelta(calls.num - 1, text)):
        yield None if event is None else calls.argued(event.text) if isinstance(event, ToolArgumentsDelta) else event


def _closed(source: Unread) -> Reading[None]:
    """Past the rest of the object that the arguments stood in."""
    while True:
        member = yield from _member(source, 0)
        if member is None:
            return
        key, at = member
        end = at if key is None else (yield from value_end(source, at))
        if end is None:
            return
        source.take(end)
        if key is None:
            return


def _pythonic(source: Unread, calls: Calls, at: int) -> Reading[bool]:
    """Told when the list is whole, since only then it is known to be one."""
    scan, seen = ListScan(), at
    while (end := scan.end(source.rest, seen)) is None:
        if source.ended or len(source.rest) - at > MAX_CHARS:
            return False
        seen = len(source.rest)
        yield None
    return (yield from _written(source, calls, at, end))


def _written(source: Unread, calls: Calls, at: int, end: int) -> Reading[bool]:
    try:
        found: tuple[WrittenCall, ...] = calls_of(source.rest[at:end])
    except ValueError:
        return False
    if not all(calls.is_one(call.name) for call in found):
        return False
    source.take(end)
    for call in found:
        yield from calls.whole(call.name, call.arguments)
    return True


def _tagged(source: Unread, calls: Calls, at: int) -> Reading[bool]:
    """Told when it is whole: what a tag holds is JSON or text by the function's schema."""
    seen = at
    while (end := source.rest.find(TAG_END, seen)) < 0:
        if source.ended or len(source.rest) - at > MAX_CHARS:
            return False
        seen = max(at, len(source.rest) - len(TAG_END) + 1)
        yield None
    call = tagged_call(source.rest[at:end], calls.types)
    if call is None or not calls.is_one(call.name):
        return False
    source.take(end + len(TAG_END))
    yield from calls.whole(call.name, call.arguments)
    return True


def _named(source: Unread, calls: Calls, at: int, marks: NamedMarks) -> Reading[bool]:
    """A name, what stands between, and an object."""
    while (brace := source.rest.find("{", at)) < 0:
        if source.ended or len(source.rest) - at > MAX_NAME_CHARS:
            return False
        yield None
    head = source.rest[at:brace].strip().removeprefix(marks.before).removesuffix(marks.between.strip())
    if marks.id_mark:
        head = head.partition(marks.id_mark)[0]
    match = _BARE_NAME.fullmatch(head.strip())
    if match is None or not calls.is_one(match[1]):
        return False
    source.take(brace)
    yield from _streamed(source, calls, match[1])
    return True


def _text(raw: str) -> str | None:
    try:
        value = value_of(raw)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _arguments(raw: str | None) -> str:
    """What a client is given for arguments that came before the name, or as a text that holds them."""
    if raw is None or raw == "null":
        return "{}"
    if not raw.startswith('"'):
        return raw
    inner = _text(raw)
    if inner is None:
        return raw
    return (inner if is_text(inner) else json_text(inner)) or "{}"
