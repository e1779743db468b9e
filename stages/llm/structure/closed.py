"""Objects that say which members they have get no others, unless their schema says that they may.

A JSON schema that says nothing of further members allows any, and few who write one mean that: a function has no use for an argument that
it doesn't declare, and a small model that may go on with ever new members does so until its bound. What is made is of the schema as it
stands, too. Decides where that can be said: not in a schema whose parts hold at once (`allOf`, a `$ref` beside members, …), of which one
would forbid another's members; such a schema stays as it is. Pure; checks nothing.
"""

from collections.abc import Mapping
from typing import Any

from stages.llm.structure.limits import MAX_DEPTH

_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_OF_ONE_OR_MANY = ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf")
_TOGETHER = frozenset(
    {
        *("allOf", "not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties"),
        *("$dynamicRef", "$dynamicAnchor", "$anchor", "$id"),
    }
)
_MEMBERS = frozenset({"properties", "required", "patternProperties", "additionalProperties", "propertyNames", "minProperties"})
_OF_OTHERS = _MEMBERS - {"properties", "required"} | {"dependentRequired"}


class _HoldTogether(Exception):
    """Parts of the schema do."""


def closed(schema: Any) -> Any:
    """The same schema, where it can be, with `additionalProperties: false` where it says nothing of them."""
    try:
        return _closed(schema, 0)
    except _HoldTogether:
        return schema


def _closed(schema: Any, depth: int) -> Any:
    if not isinstance(schema, dict):
        return schema
    if depth > MAX_DEPTH or _holds_together(schema):
        raise _HoldTogether
    made = dict(schema)
    for key in _OF_NAMES:
        if isinstance(named := schema.get(key), dict):
            made[key] = {name: _closed(value, depth + 1) for name, value in named.items()}
    for key in _OF_ONE_OR_MANY:
        if key in schema:
            value = schema[key]
            made[key] = [_closed(one, depth + 1) for one in value] if isinstance(value, list) else _closed(value, depth + 1)
    return made | {"additionalProperties": False} if _says_its_members(schema) else made


def _holds_together(schema: Mapping[str, Any]) -> bool:
    """Whether what it says holds beside what another part does. Alternatives that exclude one another (`oneOf`) might no longer do so to
    the schema as it stands, but for those that a member's value tells apart."""
    beside = schema.keys() & {"$ref", "anyOf", "oneOf"}
    return bool(
        schema.keys() & _TOGETHER
        or len(beside) > 1
        or (beside and schema.keys() & _MEMBERS)
        or ("oneOf" in schema and "discriminator" not in schema)
    )


def _says_its_members(schema: Mapping[str, Any]) -> bool:
    members, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(members, dict)
        and not schema.keys() & _OF_OTHERS
        and isinstance(required, list)
        and all(isinstance(name, str) and name in members for name in required)
    )
