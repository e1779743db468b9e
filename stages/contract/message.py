"""Values that cross to other processes, which may run an earlier or a later version of this code while a cluster is updated.

Decides how they travel: by the names of their fields, never by their order. What is at its default is not said at all, so an earlier
version understands whatever makes no use of what is new. Of what a reader does not know (a field, a member of an enum, a whole message), a
field that was declared `droppable` is left out, and nothing else is: the message is then no message but an `Unread`, which says why, and so
is each that holds it. It is no error yet, since Ray tells of one that is raised while it unpickles a call's arguments as if the process
had failed; whoever takes messages from elsewhere asks `readable`, or `readable_only`. Knows no transport but pickle, and no meaning of a
message.

Pickles hold the names of `read_message` and `read_member`: these two stay where they are, with the parameters that they have.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from importlib import import_module
from typing import Any, TypeVar, overload

from stages.contract.errors import Unreadable

K = TypeVar("K")
T = TypeVar("T")

MESSAGES_VERSION = 1
"""To be raised where a message no longer means what it did, or can't be read as it was (tests/stages/contract/test_messages_kept.py says
when): processes of different ones refuse all that the others say, so that such an update has to replace them all at once."""
ALL = "*"
"""As one of `droppable`: all fields that have a default. Of what only tells."""
RETRY_AFTER_S = 5.0
_UNLIKE = object()
_READ_AS_SENT = (TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Unread:
    """What stands in place of a message that can't be read here."""

    why: str


@dataclass(frozen=True, slots=True)
class MessageType:
    """`where`: what it is called in pickles, MODULE:NAME. `droppable`: fields that readers who don't know them, or can't read what is in
    them, may leave out. `time_left`: fields that are wall-clock times: as no two machines' clocks agree, what is said is how much time
    is left."""

    kind: type[Any]
    where: str
    defaults: tuple[tuple[str, Any, type[Any]], ...]
    droppable: tuple[str, ...]
    time_left: tuple[str, ...]

    def given(self, message: object) -> dict[str, Any]:
        """What is said of it."""
        found: dict[str, Any] = {}
        for name, default, default_kind in self.defaults:
            value = getattr(message, name)
            if value is not default and (value.__class__ is not default_kind or value != default):
                found[name] = value
        if self.time_left:
            now = time.time()
            found |= {name: found[name] - now for name in self.time_left if name in found}
        return found

    def arrived(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        now = time.time()
        return {**given, **{name: given[name] + now for name in self.time_left if name in given}}


class _Known:
    """The messages and enums of this process, by what they are called in pickles. `has_met_unread`: whether any message may hold one."""

    def __init__(self) -> None:
        self.messages: dict[str, MessageType] = {}
        self.enums: dict[str, type[StrEnum]] = {}
        self.has_met_unread = False

    def unread(self, why: str) -> Unread:
        self.has_met_unread = True
        return Unread(why)


KNOWN = _Known()


@overload
def message(cls: type[T], /) -> type[T]: ...


@overload
def message(*, droppable: Iterable[str] = (), time_left: Iterable[str] = ()) -> Callable[[type[T]], type[T]]: ...


def message(
    cls: type[T] | None = None, /, *, droppable: Iterable[str] = (), time_left: Iterable[str] = ()
) -> type[T] | Callable[[type[T]], type[T]]:
    """Over `@dataclass(frozen=True, slots=True)`: it is a message. Arguments as `MessageType` has them; Raises `ValueError`
    for a droppable field without a default."""

    def made(of: type[T]) -> type[T]:
        _make_message(of, tuple(droppable), tuple(time_left))
        return of

    return made if cls is None else made(cls)


class MessageEnum(StrEnum):
    """Base of enums whose members messages hold."""

    def __init_subclass__(cls) -> None:
        KNOWN.enums[f"{cls.__module__}:{cls.__qualname__}"] = cls

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return read_member, (MESSAGES_VERSION, f"{type(self).__module__}:{type(self).__qualname__}", self.value)


def readable(value: T) -> T:
    """Raises `Unreadable` for what arrived as an `Unread`, or for a sequence of events that holds one."""
    unread = _unread_in(value) if KNOWN.has_met_unread else None
    if unread is not None:
        raise Unreadable(
            f"who sent this and who is to read it are of two versions: {unread.why}; try again", retry_after_s=RETRY_AFTER_S
        )
    return value


def readable_only(values: Iterable[T]) -> list[T]:
    """Of what several told, each for itself, what can be read."""
    return [value for value in values if not isinstance(value, Unread)]


def readable_values(values: Mapping[K, T]) -> dict[K, T]:
    """As `readable_only`."""
    return {key: value for key, value in values.items() if not isinstance(value, Unread)}


def read_message(version: int, where: str, given: Mapping[str, Any], droppable: tuple[str, ...]) -> Any:
    """By pickle. `version`, `droppable`: the sender's."""
    known = KNOWN.messages.get(where)
    if known is None or version != MESSAGES_VERSION or (KNOWN.has_met_unread and _unread_in(given) is not None):
        return _read_with_care(version, where, given, droppable)
    try:
        return known.kind(**(known.arrived(given) if known.time_left else given))
    except _READ_AS_SENT:
        return _read_with_care(version, where, given, droppable)


def read_member(version: int, where: str, value: str) -> Any:
    """By pickle."""
    if version != MESSAGES_VERSION:
        return KNOWN.unread(_other_version(where, version))
    kind = _found(KNOWN.enums, where)
    if kind is None:
        return KNOWN.unread(f"{_name(where)} is unknown here{_versions(version)}")
    try:
        return kind(value)
    except ValueError:
        return KNOWN.unread(f"{_name(where)} has no {value!r} here{_versions(version)}")


def _make_message(cls: type[Any], droppable: tuple[str, ...], time_left: tuple[str, ...]) -> None:
    defaults = {field.name: _default(field) for field in fields(cls)}
    if wrong := set(droppable) - {ALL} - {name for name, default in defaults.items() if default is not _UNLIKE}:
        raise ValueError(f"{cls.__name__}: {', '.join(sorted(wrong))}: no fields with a default, which readers would need")
    where = f"{cls.__module__}:{cls.__qualname__}"
    rows = tuple((sys.intern(name), default, type(default)) for name, default in defaults.items())
    known = KNOWN.messages[where] = MessageType(cls, where, rows, droppable, time_left)

    def reduced(self: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return read_message, (MESSAGES_VERSION, known.where, known.given(self), known.droppable)

    cls.__reduce__ = reduced  # type: ignore[assignment]


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else _UNLIKE


def _read_with_care(version: int, where: str, given: Mapping[str, Any], droppable: tuple[str, ...]) -> Any:
    if version != MESSAGES_VERSION:
        return KNOWN.unread(_other_version(where, version))
    known = _found(KNOWN.messages, where)
    if known is None:
        return KNOWN.unread(f"{_name(where)} is unknown here{_versions(version)}")
    defaults, kept = {name: default for name, default, _ in known.defaults}, dict(given)
    for name in given:
        unread = _unread_in(given[name])
        may_drop = bool({ALL, name} & {*droppable, *known.droppable}) and defaults.get(name) is not _UNLIKE
        if may_drop and (unread is not None or name not in defaults):
            del kept[name]
        elif name not in defaults:
            return KNOWN.unread(f"{_name(where)} has no field {name!r} here{_versions(version)}")
        elif unread is not None:
            return unread
    lacking = [name for name, default in defaults.items() if default is _UNLIKE and name not in kept]
    if lacking:
        return KNOWN.unread(f"{_name(where)} lacks {lacking[0]!r}, which is needed here{_versions(version)}")
    try:
        return known.kind(**known.arrived(kept))
    except _READ_AS_SENT as error:
        return KNOWN.unread(f"{_name(where)} can't be what it is: {error}{_versions(version)}")


def _unread_in(value: object) -> Unread | None:
    """Itself, or in a container of messages."""
    if isinstance(value, Unread):
        return value
    if isinstance(value, Mapping):
        return next((found for each in value.values() if (found := _unread_in(each)) is not None), None)
    if isinstance(value, tuple | list | frozenset):
        return next((found for each in value if (found := _unread_in(each)) is not None), None)
    return None


def _found(known: Mapping[str, T], where: str) -> T | None:
    """Also of a module that this process has not imported yet."""
    if where not in known:
        try:
            import_module(where.partition(":")[0])
        except ImportError:
            return None
    return known.get(where)


def _name(where: str) -> str:
    return where.partition(":")[2]


def _other_version(where: str, version: int) -> str:
    return f"{_name(where)} is of version {version} of messages, and {MESSAGES_VERSION} is read here"


def _versions(version: int) -> str:
    return f" (version {version} of messages)"
