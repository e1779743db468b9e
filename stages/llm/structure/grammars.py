"""From what an answer must be to one grammar, in llguidance's dialect of Lark.

Decides what white space JSON may have, and what may stand before an answer that nobody will see. Pure; knows no vocabulary, and checks
nothing but what it must read (`checking.py`).
"""

import json
import re
from typing import Any

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark

from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.closed import closed
from stages.llm.structure.limits import MAX_RULE_CHARS, MAX_RULES

JSON_WHITESPACE = r" |\n {0,16}"
"""A space, or a new line with its indentation: as models write JSON, and never without end."""

_IS_LARK = re.compile(r"^[ \t]*(?:%llguidance\b|\??start[ \t]*:)", re.MULTILINE)
_INLINED = re.compile(r"^([ \t]*)\?(?=[a-z_][a-z0-9_]*[ \t]*:)", re.MULTILINE)
"""Lark's own mark of rules that leave no branch in its tree; here is no tree."""
_JSON = (ConstraintKind.JSON_SCHEMA, ConstraintKind.JSON_OBJECT)
_ANY_OBJECT = {"type": "object"}
_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""Any tokens that spell what must come are right; to choose one way for the model takes a tokenizer's time, and its lock."""


class Unreadable(ValueError):
    """A constraint's text is not what its kind says; the message tells why."""


def grammar(constraint: Constraint, *, drops_space: bool = False) -> str:
    """What `llguidance.LLMatcher` takes. `drops_space`: of an answer that begins with a space, that will not be shown. Raises
    `Unreadable`."""
    drops_space = drops_space and not constraint.after
    if constraint.kind is ConstraintKind.GRAMMAR:
        lark = _OPTIONS + in_lark(constraint.text)
        spaced = {"lark_grammar": 'start: " "? @answer'}
        return json.dumps({"grammars": [spaced, {"name": "answer", "lark_grammar": lark}]}) if drops_space else lark
    if drops_space:
        return _OPTIONS + _behind_space(constraint)
    lines = (
        r"/\n{0,2}/ " if constraint.after and constraint.kind in _JSON else ""
    )  # as models leave free behind their thoughts
    return f"{_OPTIONS}start: {lines}answer\nanswer: {rule(constraint)}"


def _behind_space(constraint: Constraint) -> str:
    """What is shown is the same, whether the first token is spelled with a space or not; one that is to be shown takes another."""
    match constraint.kind:
        case ConstraintKind.REGEX:
            return f'start: " " ANSWER | BARE\nANSWER: {rule(constraint)}\nBARE: ANSWER & /([^ ](?s:.*))?/'
        case ConstraintKind.CHOICE:
            choices = _choices(constraint.text)
            return "start: " + " | ".join(
                map(literal, [f" {one}" for one in choices] + [one for one in choices if one[:1] != " "])
            )
        case _:
            return f'start: " "? answer\nanswer: {rule(constraint)}'


def rule(constraint: Constraint) -> str:
    """What stands for it as a part of another grammar. Raises `Unreadable`, also for a grammar, which has rules of its own."""
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return json_rule(_parsed(constraint.text), constraint.whitespace)
        case ConstraintKind.JSON_OBJECT:
            return json_rule(_ANY_OBJECT, constraint.whitespace)
        case ConstraintKind.REGEX:
            return f"/{regex_to_lark(constraint.text, 'd')}/"
        case ConstraintKind.CHOICE:
            return f"({' | '.join(map(literal, _choices(constraint.text)))})"
        case ConstraintKind.GRAMMAR:
            raise Unreadable("a grammar can't be a part of another one")


def json_rule(schema: Any, whitespace: str | None = None) -> str:
    """What stands for JSON of `schema` in a grammar, as a rule does: for grammars of which JSON is a part."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise Unreadable(f"a JSON schema is an object, not {json.dumps(schema)}")
    pattern = JSON_WHITESPACE if whitespace is None else whitespace
    flexible = {"whitespace_pattern": f"({pattern})"} if pattern else {"whitespace_flexible": False}
    # Said after the schema's own, which may not switch off what a schema can't be held to.
    options = {"item_separator": ",", "key_separator": ":", "coerce_one_of": False, "lenient": False, **flexible}
    return "%json " + json.dumps(closed(schema) | {"x-guidance": options})


def literal(text: str) -> str:
    """`text` itself, as grammars write it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the JSON schema is no JSON: {error}") from error


def _choices(text: str) -> list[str]:
    choices = _parsed(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, str) for choice in choices):
        raise Unreadable("choices are a list of at least one text")
    return choices


def in_lark(text: str) -> str:
    """A grammar that may be in GBNF, which other servers take, or in Lark as its own parser takes it. Raises `Unreadable`, also where
    there are too many rules."""
    if _IS_LARK.search(text):
        return _INLINED.sub(r"\1", text)
    num_rules = text.count("::=")
    if num_rules > MAX_RULES:
        raise Unreadable(f"the grammar has {num_rules} rules of GBNF; at most {MAX_RULES} are allowed, or write it in Lark")
    if num_rules * len(text) > MAX_RULE_CHARS:
        raise Unreadable(
            f"the grammar has {num_rules} rules of GBNF and {len(text)} characters; both times each other are at most "
            f"{MAX_RULE_CHARS}, or write it in Lark"
        )
    try:
        return gbnf_to_lark(text)
    except Exception as error:  # its reader raises whatever it stumbles over
        raise Unreadable(f"the grammar is neither Lark with a rule start nor GBNF: {error}") from error
