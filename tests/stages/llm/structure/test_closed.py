"""Which objects get no members but those that their schema has, and which schemas stay as they are."""

from typing import Any

import pytest

from stages.llm.structure.closed import closed
from stages.llm.structure.limits import MAX_DEPTH

POINT: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
CLOSED = POINT | {"additionalProperties": False}
REF = {"$ref": "#/$defs/point"}


def kept(schema: dict[str, Any]) -> bool:
    return bool(closed(schema) == schema)


@pytest.mark.parametrize(
    "around",
    [
        lambda point: point,
        lambda point: {"type": "array", "items": point},
        lambda point: {"type": "array", "prefixItems": [point, {"type": "string"}]},
        lambda point: {"anyOf": [point, {"type": "null"}]},
        lambda point: {"additionalProperties": point},
        lambda point: {"$defs": {"point": point}, "anyOf": [REF, {"type": "null"}], "title": "maybe"},
        lambda point: {"$defs": {"point": point}, "oneOf": [REF], "discriminator": {"propertyName": "x"}},
        lambda point: {"properties": {"not": point, "allOf": REF}, "additionalProperties": False, "$defs": {"point": point}},
    ],
)
def test_objects_that_say_their_members_are_closed_wherever_they_stand(around: Any) -> None:
    assert closed(around(POINT)) == around(CLOSED)


@pytest.mark.parametrize(
    "schema",
    [
        POINT | {"additionalProperties": True},
        POINT | {"additionalProperties": {"type": "string"}},
        POINT | {"patternProperties": {"^y": {}}},
        POINT | {"minProperties": 2},
        POINT | {"required": ["x", "y"]},
        POINT | {"dependentRequired": {"x": ["y"]}},
        {"type": "object"},
        {"enum": [POINT]},
        {"const": {"properties": {}}},
    ],
)
def test_an_object_that_may_have_others_stays_open(schema: dict[str, Any]) -> None:
    assert kept(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [POINT, {"properties": {"y": {}}}]},
        {"$defs": {"point": POINT}, "properties": {"p": REF | {"properties": {"y": {}}}}},
        {"anyOf": [{"required": ["x"]}, POINT], "properties": {"x": {}, "y": {}}},
        {"oneOf": [POINT, {"properties": {"y": {}}}]},
        {"properties": {"p": {"not": POINT}}},
        POINT | {"if": POINT, "then": {"required": ["y"]}},
    ],
)
def test_a_schema_whose_parts_hold_at_once_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert kept(schema)


def test_a_schema_that_is_nested_too_deep_is_left_to_whoever_refuses_it() -> None:
    deep: dict[str, Any] = POINT
    for _ in range(MAX_DEPTH + 2):
        deep = {"type": "array", "items": deep}
    assert kept(deep)
