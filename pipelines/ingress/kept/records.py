"""What is kept as a record: a frozen dataclass of what JSON has, as bytes that HTTP processes of two versions may read while a cluster is
updated.

Decides that fields go by their names, that what is at its default is not said (an earlier version understands whatever makes no use of
what is new), and that a record which can't be read is none. Pure; knows no record.
"""

import json
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


def to_bytes(record: "DataclassInstance") -> bytes:
    said = {field.name: getattr(record, field.name) for field in fields(record)}
    return json.dumps(
        {field.name: said[field.name] for field in fields(record) if said[field.name] != _default(field)}
    ).encode()


def of_bytes(kind: type[R], data: bytes) -> R | None:
    """None: it is none, or one of another version that says what is not known here, or not what is needed here."""
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None


def _default(field: "Field[Any]") -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
