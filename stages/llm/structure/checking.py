"""Whether what an answer must be can be enforced at all, before anything runs: not too large, and nothing in it that would be ignored.

Decides how that is told: the keyword and where it stands. Knows no vocabulary and no torch: milliseconds of CPU, hundreds for the
largest, so call it off the event loop.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llguidance import LLMatcher

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.grammars import Unreadable, grammar, in_lark
from stages.llm.structure.limits import MAX_DEPTH, MAX_MULTIPLE, MAX_MULTIPLES, MAX_TEXT_BYTES, parser_limits
from stages.llm.structure.multiples import Multiple, all_states, multiples

_MAX_TOLD = 300
_LONG_INT = 20
_UNKNOWN_KEYS = re.compile(r"^Unimplemented keys: (\[.*\])")
_LISTING = re.compile(r"(\n *\d+ \| .*)|<non-verbose/>|(^|at )\d+\(\d+\): |failed to compile JSON schema: ", re.DOTALL)
"""Of llguidance's messages: where in a grammar of our own making, and how that reads."""

_NAMED = (
    (re.compile(r"look-around|regex parse error|nvalid regex"), "pattern"),
    (re.compile(r"^Resource |^Pointer |reference"), "$ref"),
    (re.compile(r"Unknown format"), "format"),
    (re.compile(r"patternPropert"), "patternProperties"),
    (re.compile(r"for '([^']+)'|^(oneOf|enum|const|required|properties|items|prefixItems|anyOf|allOf|multipleOf)\b"), ""),
    (re.compile(r"nvalid type"), "type"),
)
"""What llguidance says about a keyword; "": the keyword stands there."""

_JSON_WITHIN = re.compile(r"%json[ \t\r\n]*")
_OF_NAMES = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_OF_VALUES = frozenset({"const", "enum", "default", "examples"})


def check(constraint: Constraint, param: str = "constraint") -> Constraint:
    """The same, with a grammar in Lark: what can be compiled. Raises `InvalidRequest` that names `param` for what is not readable, too
    large, or can't be enforced."""
    size = len((constraint.text + (constraint.whitespace or "")).encode(errors="surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise InvalidRequest(f"{param} has {size} bytes; at most {MAX_TEXT_BYTES} are allowed", param=param)
    schema = None
    if constraint.kind is ConstraintKind.JSON_SCHEMA:
        schema = _read(constraint.text, param)
        _check_schemas_themselves([schema], param)
    try:
        if constraint.kind is ConstraintKind.GRAMMAR:
            constraint = replace(constraint, text=in_lark(constraint.text))
            _check_schemas_themselves(_schemas_within(constraint.text, param), param)
        text = grammar(constraint)
        text.encode()
        failed, told = LLMatcher.validate_grammar_with_warnings(text, limits=parser_limits())
    except Unreadable as error:
        raise InvalidRequest(f"{param}: {error}", param=param) from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{param} holds half of a surrogate pair, which is no text", param=param) from error
    if failed:
        raise refusal(" ".join(told), schema, param)
    return constraint


def check_schema(schema: Mapping[str, Any], param: str) -> None:
    """The same for a schema that will be a part of a grammar."""
    check(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)), param)


def refusal(told: str, schema: Any, param: str) -> InvalidRequest:
    """In our words, of what llguidance told of a grammar. `schema`: where the keyword is looked for; None: it is none."""
    told = _LISTING.sub("", told)
    if schema is None:
        return InvalidRequest(f"{param} can't be enforced: {_short(told)}", param=param)
    keyword = _keyword(told)
    said = [(f"{path}.{name}", value) for path, name, value in _said(schema, "$") if name == keyword]
    if not said:
        return InvalidRequest(f"{param} is a JSON schema that can't be enforced: {_short(told)}", param=param)
    at = next((path for path, value in said if str(value) in told), said[0][0])
    return InvalidRequest(f"{param}: the keyword {keyword} (at {at}) can't be enforced: {_why(told, keyword)}", param=param)


def _why(told: str, keyword: str | None) -> str:
    if _UNKNOWN_KEYS.search(told) is not None:
        return "answers aren't held to it here; leave it out"
    if keyword == "oneOf":
        return "its alternatives don't exclude one another by their types or constants; use anyOf"
    return _short(told)


def _read(text: str, param: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{param} is no JSON schema: {error}", param=param) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _schemas_within(lark: str, param: str) -> list[Any]:
    """Whatever a grammar may take for the JSON of a schema, also in its texts and comments. What is no JSON for Python is none for
    llguidance, which refuses it where it stands for a schema: hence integers without Python's own bound."""
    decoder, schemas = json.JSONDecoder(parse_int=_any_int), []
    for found in _JSON_WITHIN.finditer(lark):
        try:
            schemas.append(decoder.raw_decode(lark, found.end())[0])
        except ValueError:
            continue
        except RecursionError as error:
            raise _too_deep(param) from error
    return schemas


def _any_int(text: str) -> float:
    return int(text) if len(text) < _LONG_INT else float(text)


def _too_deep(param: str) -> InvalidRequest:
    return InvalidRequest(f"{param} is nested more than {MAX_DEPTH} levels deep", param=param)


def _check_schemas_themselves(schemas: Sequence[Any], param: str) -> None:
    """What makes work that nothing counts. Of data as of schemas: a reference may lead anywhere."""
    level, depth = [*schemas], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _too_deep(param)
        level = [inner for one in level for inner in _inside(one)]
    _check_multiples([multiples(schema) for schema in schemas], param)


def _check_multiples(of_schemas: Sequence[Sequence[Multiple]], param: str) -> None:
    for found in of_schemas:
        for one in found:
            if one.coefficient > MAX_MULTIPLE:
                raise InvalidRequest(
                    f"{param}: the keyword multipleOf (at {one.path}) is {one.value}; without its decimal point it is at most "
                    f"{MAX_MULTIPLE}",
                    param=param,
                )
    if all_states(of_schemas) > MAX_MULTIPLES:
        raise InvalidRequest(
            f"{param}: the different values of the keyword multipleOf, and the least multiples that they have in common, add up to "
            f"more than {MAX_MULTIPLES} without their decimal points",
            param=param,
        )


def _inside(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def _said(schema: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Every keyword with its value, and the path of the schema that says it: names of properties and values are none."""
    if isinstance(schema, list):
        for place, one in enumerate(schema):
            yield from _said(one, f"{path}[{place}]")
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        yield path, keyword, value
        if keyword in _OF_NAMES and isinstance(value, dict):
            for name, one in value.items():
                yield from _said(one, f"{path}.{keyword}.{name}")
        elif keyword not in _OF_VALUES:
            yield from _said(value, f"{path}.{keyword}")


def _keyword(told: str) -> str | None:
    if (listed := _UNKNOWN_KEYS.search(told)) is not None:
        return str(json.loads(listed[1])[0])
    for pattern, keyword in _NAMED:
        if (found := pattern.search(told)) is not None:
            return keyword or next(name for name in found.groups() if name)
    return None


def _short(told: str) -> str:
    line = " ".join(told.split())
    return line if len(line) <= _MAX_TOLD else line[: _MAX_TOLD - 3] + "..."
