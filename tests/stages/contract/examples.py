"""An example of every kind of message, found by the types of its fields: so a new field is in it, too."""

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from stages.contract.blob import Blob
from stages.contract.message import MessageEnum, MessageType, Unread
from stages.contract.recipe import Making
from stages.contract.result import Result
from stages.diffusion.messages import Pixels
from stages.llm.messages import Generate, Sampling
from stages.vision.messages import EncodeImage

PLAIN: Mapping[Any, Any] = {
    bool: True,
    int: 7,
    float: 0.25,
    str: "words",
    bytes: b"\x00bytes",
    Blob: Blob(b"blob"),
    Making: EncodeImage(b"image", 9),
    Result: Pixels(np.arange(3, dtype=np.uint8)),
    Any: Generate((1, 2), Sampling(3)),  # an item's payload
}


def least(message: MessageType) -> Any:
    """Says nothing but what must be said."""
    given = {name: _example(kind) for name, kind, field in _fields(message.kind) if not _has_default(field)}
    return message.kind(**given | {name: math.inf for name in message.time_left if name in given})


def whole(message: MessageType) -> Any:
    """Says something of each field. Messages within it say the least; times are infinite, so that an example is
    the same tomorrow."""
    given = {name: _example(kind) for name, kind, _ in _fields(message.kind)}
    return message.kind(**given | dict.fromkeys(message.time_left, math.inf))


def described(value: object) -> object:
    """As JSON has it: of messages, fields by their names."""
    if is_dataclass(value) and not isinstance(value, Unread | type):
        return {"is": type(value).__name__} | {each.name: described(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [described(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.tolist()}"
    return f"{bytes(value)!r}" if isinstance(value, Blob) else repr(value)


def _fields(kind: type[Any]) -> list[tuple[str, Any, "Field[Any]"]]:
    hints = get_type_hints(kind, vars(sys.modules[kind.__module__]))
    return [(field.name, hints[field.name], field) for field in fields(kind)]


def _has_default(field: "Field[Any]") -> bool:
    return field.default is not MISSING or field.default_factory is not MISSING


def _example(kind: Any) -> Any:
    """Raises `TypeError` for a type that no message has had yet."""
    if kind in PLAIN:
        return PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, TypeVar):
        return _example(kind.__bound__ if kind.__bound__ is not None else Any)
    if origin in (Annotated, Union, UnionType):
        return _example(next(each for each in arguments if each is not NoneType))
    if origin is tuple:
        chosen = arguments[:1] if len(arguments) == 2 and arguments[1] is Ellipsis else arguments
        return tuple(_example(each) for each in chosen)
    if origin is frozenset:
        return frozenset([_example(arguments[0])])
    if origin is not None and issubclass(origin, Mapping):
        return {_example(arguments[0]): _example(arguments[1])}
    if origin is np.ndarray:
        return np.arange(3, dtype=_dtype(arguments))
    return _of_class(origin or kind)


def _of_class(kind: type[Any]) -> Any:
    if issubclass(kind, MessageEnum):
        return list(kind)[-1]
    if is_dataclass(kind):
        return kind(**{name: _example(each) for name, each, field in _fields(kind) if not _has_default(field)})
    raise TypeError(f"no example of {kind!r}: say one in PLAIN")


def _dtype(arguments: tuple[Any, ...]) -> Any:
    (scalar,) = get_args(arguments[1])
    return scalar if isinstance(scalar, type) else np.float32
