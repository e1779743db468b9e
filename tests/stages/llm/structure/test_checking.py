"""What can't be enforced is refused before anything runs, and told by keyword and place."""

import json
import random
from typing import Any

import pytest

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.checking import check, check_schema
from stages.llm.structure.grammars import in_lark
from stages.llm.structure.row_structure import RowStructure
from stages.llm.structure.structures import Structures
from tests.stages.llm.structure.hostile import CONSTRAINTS
from tests.stages.llm.structure.test_vocabulary import allowed, vocabulary
from tests.stages.llm.structure.tokenizers_of_all_kinds import byte_level

PARAM = "tools[2].function.parameters"
FINE = {"type": "integer", "multipleOf": 99_991}


def refused(constraint: Constraint, param: str = PARAM) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(constraint, param)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)
    assert len(caught.value.message) < 600
    return caught.value.message


def within(schema: Any) -> Constraint:
    """As a property, beside one that is called as a keyword is."""
    whole = {"type": "object", "properties": {"not": {"type": "string"}, "a": schema}}
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(whole))


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "Unimplemented keys: []"}, "type"),
        ({"type": "Unimplemented keys: [x]"}, "type"),
        ({"type": 'Unimplemented keys: ["not"]'}, "type"),
        ({"type": "string", "format": "Unimplemented keys: [" * 2500}, "format"),
        ({"type": "string", "pattern": "(" + "Unimplemented keys: [" * 2500}, "pattern"),
    ],
)
def test_words_of_llguidances_in_a_schema_are_not_taken_for_its_own(schema: Any, keyword: str) -> None:
    assert f"the keyword {keyword} (at $.properties.a.{keyword})" in refused(within(schema))


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"propertyNames": {"pattern": "^x"}}, "propertyNames"),
        ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "format": "weird"}, "format"),
        ({"type": "string", "pattern": "a(?!b)"}, "pattern"),
        ({"type": "string", "pattern": "[a"}, "pattern"),
        ({"$ref": "http://example.org/x"}, "$ref"),
        ({"$ref": "#/$defs/x"}, "$ref"),
        ({"type": "foo"}, "type"),
        ({"type": "integer", "minimum": "x"}, "minimum"),
        ({"type": "object", "patternProperties": {"^a": {}, "^ab": {}}}, "patternProperties"),
        ({"type": "integer", "multipleOf": 99_991}, "multipleOf"),
        ({"type": "number", "multipleOf": 1e30}, "multipleOf"),
        ({"type": "number", "multipleOf": 0.12345}, "multipleOf"),
    ],
)
def test_a_keyword_that_cant_be_enforced_is_named_with_its_place(schema: Any, keyword: str) -> None:
    assert f"the keyword {keyword} (at $.properties.a.{keyword})" in refused(within(schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "number", "multipleOf": 0.01},
        {"type": "integer", "multipleOf": 100},
        {"oneOf": [{"type": "integer"}, {"type": "string"}]},
        {"oneOf": [{"properties": {"kind": {"const": kind}}, "required": ["kind"], "type": "object"} for kind in "ab"]},
        {"type": ["string", "null"], "format": "date-time"},
        {"$defs": {"x": {"type": "integer"}}, "properties": {"x": {"$ref": "#/properties/a/$defs/x"}}},
        {"title": "T", "description": "D", "default": 1, "examples": [{"not": 1}], "enum": [{"not": 1}, 2]},
        {"type": "string", "minLength": 1, "maxLength": 40, "pattern": "^[a-z]+$"},
    ],
)
def test_what_can_be_enforced_is_let_through(schema: Any) -> None:
    check(within(schema))
    check_schema(schema if "$defs" not in schema else {}, PARAM)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "is an object"),
        ("{", "no JSON schema"),
        ('{"minimum": NaN}', "NaN"),
        ('{"const": "\\ud800"}', "enforced"),
        ("[" * 5000, "no JSON schema"),
        ('{"items":' * 80 + "{}" + "}" * 80, "more than 64 levels"),
        (json.dumps({"description": "x" * 70_000}), "65536"),
    ],
    ids=["an array", "half", "no number", "half a pair", "very deep", "deep", "long"],
)
def test_what_is_no_schema_or_too_large_is_told(text: str, told: str) -> None:
    assert told in refused(Constraint(ConstraintKind.JSON_SCHEMA, text))


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (ConstraintKind.REGEX, "(?=a)", "look-around"),
        (ConstraintKind.REGEX, "[a", "unclosed"),
        (ConstraintKind.CHOICE, "[]", "at least one"),
        (ConstraintKind.CHOICE, '["\\ud800"]', "surrogate"),
        (ConstraintKind.GRAMMAR, "start: y", '"y"'),
        (ConstraintKind.GRAMMAR, 'start: %json {"not": {}}', '"not"'),
        (ConstraintKind.GRAMMAR, 'start: %json {"not', "%json"),
        (ConstraintKind.GRAMMAR, "start: %json # {}\n {}", "%json"),
        (ConstraintKind.GRAMMAR, "start: %json " + "[" * 30_000, "more than 64 levels"),
        (ConstraintKind.GRAMMAR, "start: %json " + '{"items":' * 80 + "{}" + "}" * 80, "more than 64 levels"),
        (ConstraintKind.GRAMMAR, 'start: "a" | %json {"type": "integer", "multipleOf": 99991}', "(at $.multipleOf) is 99991;"),
        (
            ConstraintKind.GRAMMAR,
            'start: %json\n\t{"x":' + "1" * 5000 + ',"multipleOf": 99991}',
            "(at $.multipleOf) is 99991;",
        ),
        (ConstraintKind.GRAMMAR, 'start: %lark { start: %json {"multipleOf": 99991} }', "(at $.multipleOf) is 99991;"),
    ],
)
def test_what_is_wrong_with_others_is_told_in_a_few_words(kind: ConstraintKind, text: str, told: str) -> None:
    message = refused(Constraint(kind, text))
    assert told in message
    assert "no_forcing" not in message


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/default", "default": FINE},
        {"$ref": "#/examples/0", "examples": [FINE]},
        {"$ref": "#/const/a", "const": {"a": FINE}},
        {"$ref": "#/enum/0/b", "enum": [{"b": FINE}]},
        {"$ref": "#/properties", "properties": FINE},
        {"$ref": "#/x-mine", "x-mine": FINE},
    ],
    ids=lambda schema: str(schema["$ref"]),
)
def test_a_large_multiple_is_found_wherever_a_reference_can_make_a_schema_of_it(schema: Any) -> None:
    assert "multipleOf) is 99991;" in refused(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)))


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"multipleOf": 97}, {"multipleOf": 89}, {"multipleOf": 13}]},
        {"allOf": [{"multipleOf": 0}, {"multipleOf": 0.97}, {"multipleOf": 89}, {"multipleOf": 13}]},
        {"multipleOf": 997, "anyOf": [{"multipleOf": 991}]},
        {"$defs": {"a": {"multipleOf": 997}}, "$ref": "#/$defs/a", "multipleOf": 991},
        {"properties": {f"k{one}": {"type": "integer", "multipleOf": 1000 - one} for one in range(100)}},
        {"multipleOf": 7, "enum": [{"multipleOf": "1e-999999999"}], "properties": {"a": {"multipleOf": 1001}}},
    ],
)
def test_multiples_that_are_many_or_make_a_large_one_together_are_refused(schema: Any) -> None:
    assert "multipleOf" in refused(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)))
    assert "multipleOf" in refused(Constraint(ConstraintKind.GRAMMAR, f"start: %json {json.dumps(schema)}"))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {f"k{one}": {"type": "integer", "multipleOf": 1000} for one in range(300)}},
        {"properties": {f"k{one}": {"type": "number", "multipleOf": one} for one in (0.01, 0.25, 7, 11, 13, 17, 1000)}},
        {"allOf": [{"multipleOf": 0.01}, {"multipleOf": 0.5}, {"multipleOf": 60}, {"multipleOf": 700}]},
    ],
)
def test_multiples_as_people_write_them_are_let_through(schema: Any) -> None:
    check_schema(schema, PARAM)


@pytest.mark.parametrize(
    "text", ['start: "%json"', 'start: "a" // %json {', 'start: %json {"type": "integer", "multipleOf": 100}']
)
def test_a_grammar_may_speak_of_json(text: str) -> None:
    check(Constraint(ConstraintKind.GRAMMAR, text))


def test_a_grammar_is_given_back_as_it_can_be_compiled_and_is_not_made_twice() -> None:
    checked = check(Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"+', after=(3,)))
    assert checked.after == (3,)
    assert in_lark(checked.text) is checked.text
    assert check(checked) == checked


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_what_is_hostile_is_refused_or_costs_a_bounded_amount(name: str) -> None:
    """All work is counted (`limits.py`), so what is let through goes on or ends with an error of its own request."""
    structures, refusal = Structures(vocabulary(byte_level())), None
    try:
        start = structures.start(CONSTRAINTS[name], "")
    except InvalidRequest as error:
        refusal = error
    if refusal is not None:
        assert refusal.param == "constraint"
        assert len(refusal.message) < 600
        return
    row, draw = RowStructure(start), random.Random(0)
    for _ in range(60):
        mask = row.settled()
        if mask is None:
            assert isinstance(row.failure, InvalidRequest)
            return
        RowStructure.advance([(row, draw.choice(allowed(mask)))])
