"""What is asked becomes a grammar that lets through that and nothing else."""

import json
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.grammars import Unreadable, grammar, json_rule, literal, rule

BYTES = LLTokenizer("byte")
ONE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def lets_through(lark: str, text: str) -> bool:
    matcher = LLMatcher(BYTES, lark)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def of_schema(schema: Any, **more: Any) -> str:
    return grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema), **more))


@pytest.mark.parametrize("text", ['{"a":1}', '{"a": 1}', '{\n  "a": 1\n}', '{ "a" : 1 }', '{\n                "a":1}'])
def test_json_may_be_spaced_as_models_write_it(text: str) -> None:
    assert lets_through(of_schema(ONE), text)


@pytest.mark.parametrize(
    "text", [' {"a":1}', '{"a":1} ', '{"a":  1}', '{\n\n"a":1}', '{\t"a":1}', "{\n" + 17 * " " + '"a":1}']
)
def test_white_space_of_json_is_bounded(text: str) -> None:
    assert not lets_through(of_schema(ONE), text)


@pytest.mark.parametrize("text", ['{"b":1}', "{}", '{"a":1.5}', '{"a":1,"b":2}', '{"a":"1"}', "[]", '{"a":1}}', '{"a":1'])
def test_json_of_another_schema_is_not_let_through(text: str) -> None:
    assert not lets_through(of_schema(ONE), text)


def test_white_space_is_what_a_request_says() -> None:
    assert lets_through(of_schema(ONE, whitespace=r"\t{0,2}"), '{\t\t"a":1}')
    assert not lets_through(of_schema(ONE, whitespace=r"\t{0,2}"), '{ "a":1}')
    assert not lets_through(of_schema(ONE, whitespace=""), '{ "a":1}')
    assert lets_through(of_schema(ONE, whitespace="a|b"), '{b"a":1}')  # the whole pattern, not its first alternative


def test_a_schema_cant_switch_off_what_it_is_held_to() -> None:
    loose = {"x-guidance": {"lenient": True, "whitespace_pattern": ".*"}, "not": {"type": "string"}}
    assert "not" in LLMatcher.validate_grammar(of_schema(loose))
    assert not lets_through(of_schema(ONE | {"x-guidance": {"whitespace_pattern": ".*"}}), '{   "a":1}')


@pytest.mark.parametrize("schema", [True, {}])
def test_a_schema_of_anything_lets_all_json_through(schema: Any) -> None:
    assert all(lets_through(of_schema(schema), text) for text in ('[1,"x",{"a":null}]', "1.5e3", '"é"', "true"))


def test_an_object_gets_no_member_that_its_schema_does_not_have_unless_it_may() -> None:
    open_one = {key: value for key, value in ONE.items() if key != "additionalProperties"}
    assert lets_through(of_schema(open_one), '{"a":1}')
    assert not lets_through(of_schema(open_one), '{"a":1,"b":2}')
    assert lets_through(of_schema(open_one | {"additionalProperties": True}), '{"a":1,"b":2}')


def test_lark_may_have_its_own_marks() -> None:
    lark = grammar(Constraint(ConstraintKind.GRAMMAR, '  ?start: name ("," name)*\n  ?name: /[a-z]/?'))
    assert lets_through(lark, "a,b,")
    assert not lets_through(lark, "ab")


def test_any_object_is_an_object() -> None:
    lark = grammar(Constraint(ConstraintKind.JSON_OBJECT))
    assert lets_through(lark, '{"a":[1,{"b":null}]}')
    assert not lets_through(lark, "[]")


def test_a_pattern_is_of_the_whole_text() -> None:
    lark = grammar(Constraint(ConstraintKind.REGEX, r"^a/b\d+$|c"))
    assert all(lets_through(lark, text) for text in ("a/b12", "c"))
    assert not any(lets_through(lark, text) for text in ("a/b", "xa/b1", "a/b1\n", "a/b١", "ca/b1"))


@pytest.mark.parametrize("choice", ["yes", "", 'a "quoted"\n\x7f\x00 word', "🙂/é", "\\d", "a|b", '"i'])
def test_a_choice_is_said_to_the_letter(choice: str) -> None:
    lark = grammar(Constraint(ConstraintKind.CHOICE, json.dumps([choice, "another"])))
    assert lets_through(lark, choice)
    assert lets_through(lark, "another")
    assert not lets_through(lark, choice + "x")
    assert not lets_through(lark, "Another")


def test_grammars_are_lark_or_gbnf() -> None:
    for text in ('start: "a"+ B\nB: /[0-9]/', 'root ::= "a"+ [0-9]'):
        lark = grammar(Constraint(ConstraintKind.GRAMMAR, text))
        assert lets_through(lark, "aa3")
        assert not lets_through(lark, "3")


def test_a_first_space_that_is_not_shown_may_be_there() -> None:
    for constraint, text in (
        (Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(ONE)), '{"a":1}'),
        (Constraint(ConstraintKind.CHOICE, '["x", "y"]'), "y"),
        (Constraint(ConstraintKind.GRAMMAR, 'start: "x"'), "x"),
        (Constraint(ConstraintKind.REGEX, "a|x"), "x"),
    ):
        lark = grammar(constraint, drops_space=True)
        assert lets_through(lark, text)
        assert lets_through(lark, " " + text)
        assert not lets_through(lark, "  " + text)


@pytest.mark.parametrize(
    "constraint",
    [Constraint(ConstraintKind.CHOICE, '[" x", ""]'), Constraint(ConstraintKind.REGEX, "( x)?")],
    ids=["choices", "a pattern"],
)
def test_a_first_space_that_is_to_be_shown_comes_behind_the_one_that_is_not(constraint: Constraint) -> None:
    lark = grammar(constraint, drops_space=True)
    assert [lets_through(lark, text) for text in ("", " ", "  x", " x", "x")] == [True, True, True, False, False]


def test_behind_a_mark_json_may_begin_two_lines_lower_and_nothing_else_may() -> None:
    after = grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(ONE), after=(3,)), drops_space=True)
    assert [lets_through(after, begin + '{"a":1}') for begin in ("", "\n", "\n\n", "\n\n\n", " ")] == [True] * 3 + [False] * 2
    assert not lets_through(grammar(Constraint(ConstraintKind.CHOICE, '["x"]', after=(3,))), "\nx")


def test_json_can_be_a_part_of_a_grammar() -> None:
    lark = f"start: {literal('<call>')} body {literal('</call>')}\nbody: {json_rule(ONE)}"
    assert lets_through(lark, '<call>{"a": 1}</call>')
    assert not lets_through(lark, "<call>{}</call>")
    slashes, letter = rule(Constraint(ConstraintKind.REGEX, "a/+")), rule(Constraint(ConstraintKind.CHOICE, '["b"]'))
    either = f"start: x | y\nx: {slashes}\ny: {letter}"
    assert [lets_through(either, text) for text in ("a//", "b", "ab")] == [True, True, False]


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (ConstraintKind.JSON_SCHEMA, "[1]", "an object"),
        (ConstraintKind.JSON_SCHEMA, "false", "an object"),
        (ConstraintKind.JSON_SCHEMA, "{", "no JSON"),
        (ConstraintKind.CHOICE, "[]", "at least one"),
        (ConstraintKind.CHOICE, '["a", 1]', "at least one"),
        (ConstraintKind.GRAMMAR, "a thing", "neither Lark"),
        (ConstraintKind.GRAMMAR, 'root ::= "a"\n' + 'x ::= "b"\n' * 500, "501 rules of GBNF; at most 500"),
        (ConstraintKind.GRAMMAR, 'root ::= "a"\n' * 200 + " " * 20_000, "at most 2000000"),
        (ConstraintKind.GRAMMAR, 'root ::= "a" b', "'b' not found"),
    ],
)
def test_what_can_not_be_read_is_told(kind: ConstraintKind, text: str, told: str) -> None:
    with pytest.raises(Unreadable, match=told):
        grammar(Constraint(kind, text))
