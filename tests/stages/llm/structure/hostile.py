"""Schemas, patterns and grammars that are small to write and large to enforce."""

import json
from typing import Any

from stages.llm.messages import Constraint, ConstraintKind


def _nested(schema: Any, depth: int, keyword: str = "items") -> Any:
    for _ in range(depth):
        schema = {"type": "array", keyword: schema}
    return schema


def _doubled(depth: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"anyOf": [{"type": "array", "items": schema}, {"type": "object", "properties": {"a": schema}}]}
    return schema


def _object(count: int, value: Any) -> Any:
    return {"type": "object", "properties": {f"k{number}": value for number in range(count)}, "additionalProperties": False}


def _rules(count: int) -> str:
    """Each is known for what it is only once the next one is."""
    return "".join(f"r{number} ::= r{number + 1}\n" for number in range(count)) + f'r{count} ::= "a"\n'


SCHEMAS: dict[str, Any] = {
    "a product of alternatives": {
        "allOf": [{"anyOf": [_object(1, {"const": f"{i}{j}"}) for j in range(8)]} for i in range(9)]
    },
    "alternatives of alternatives": _doubled(9),
    "a thousand alternatives": {"type": "array", "items": {"anyOf": [_object(1, {"const": number}) for number in range(700)]}},
    "a thousand properties": {"type": "array", "items": _object(1000, {"type": "string", "maxLength": 20})},
    "a thousand patterns": _object(900, {"type": "string", "pattern": "^(a|b)*a(a|b){9}$"}),
    "a million items": {"type": "array", "minItems": 100_000, "maxItems": 1_000_000, "items": {"type": "integer"}},
    "a million letters": {"type": "string", "minLength": 1_000_000},
    "a pattern of patterns": {"type": "string", "pattern": "(([a-z]{1,100}){1,100}){1,100}"},
    "a pattern of many states": {"type": "string", "pattern": "(a|b)*a(a|b){25}"},
    "a fine multiple": {"type": "integer", "multipleOf": 99_991},
    "a finer multiple": {"type": "number", "multipleOf": 0.123457},
    "a fine multiple of others": {"allOf": [{"type": "integer", "multipleOf": number} for number in (997, 991, 983, 977)]},
    "a fine multiple in data": {"$ref": "#/default", "default": {"type": "integer", "multipleOf": 99_991}},
    "many multiples": _object(1, {"anyOf": [{"type": "integer", "multipleOf": number} for number in range(1, 1000)]}),
    "a schema that is itself": {"allOf": [{"$ref": "#"}]},
    "a schema in itself": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "a deep schema": _nested({"type": "integer"}, 100),
    "a deep array of alternatives": _nested({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 50, "prefixItems"),
    "many choices": {"enum": [f"value {number}" for number in range(4000)]},
    "a text that is too long": {"description": "x" * 70_000},
}
PATTERNS = {
    "a long repetition": "(a|b|c){1,100000}",
    "many open brackets": "(" * 20_000 + "a" + ")" * 20_000,
    "all of many lengths": "(" + "|".join(f".*a.{{{number}}}b" for number in range(1, 30)) + ")",
}
GRAMMARS = {
    "an ambiguous one": 'start: a\na: a a | "x" | ""',
    "ambiguous pieces": "start: a a a a a a a a\na: /x*/ | /x+/ | a a",
    "one without end": 'start: "a" start',
    "many open brackets": "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "many lines": "\n" * 60_000,
    "many blanks": " " * 60_000,
    "many rules of GBNF": "root ::= r0\n" + _rules(3500),
    "many rules of GBNF, and a long one": "root ::= big r0\nbig ::= " + "." * 50_000 + " big\n" + _rules(490),
    "a fine multiple": 'start: %json {"type": "integer", "multipleOf": 99991}',
    "a fine multiple in data": 'start: %json {"$ref": "#/default", "default": {"type": "integer", "multipleOf": 99991}}',
    "many open brackets of GBNF": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000,
}
CONSTRAINTS = (
    {name: Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)) for name, schema in SCHEMAS.items()}
    | {f"pattern: {name}": Constraint(ConstraintKind.REGEX, text) for name, text in PATTERNS.items()}
    | {f"grammar: {name}": Constraint(ConstraintKind.GRAMMAR, text) for name, text in GRAMMARS.items()}
)
