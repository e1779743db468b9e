"""What a body says of the form of its answer: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_…` fields,
and SGLang's three.

Decides what each of them means as a `Constraint`, that there is one at most, and that none is too large to look at. Whether it can be
enforced is for `stages/llm/structure/checking.py`.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from pipelines.ingress.schemas.strict import EndUser, RequestBody
from stages.contract.errors import InvalidRequest
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.limits import MAX_TEXT_BYTES

MAX_CHOICES = 4096


def _schema_text(value: object) -> object:
    """A schema as its text. As soon as it is found to be too large, no more of it is looked at."""
    if not isinstance(value, dict | str):
        raise ValueError("must be an object")
    waiting, left = [value], MAX_TEXT_BYTES
    while waiting and left >= 0:
        here = waiting.pop()
        left -= len(here) if isinstance(here, str | dict | list) else 1
        if left >= 0 and isinstance(here, dict | list):
            waiting += [*here, *here.values()] if isinstance(here, dict) else here
    if left < 0:
        raise ValueError(f"must be of at most {MAX_TEXT_BYTES} bytes")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _object_text(value: object) -> object:
    if value is not None and not isinstance(value, dict):
        raise ValueError("must be an object")
    return None if value is None else _schema_text(value)


def _bounded(choices: list[str]) -> list[str]:
    if sum(map(len, choices)) > MAX_TEXT_BYTES:
        raise ValueError(f"must be of at most {MAX_TEXT_BYTES} bytes together")
    return choices


_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
ObjectText = Annotated[str, BeforeValidator(_object_text), WithJsonSchema(_OBJECT)]
SchemaText = Annotated[str, BeforeValidator(_schema_text), WithJsonSchema({"anyOf": [_OBJECT, {"type": "string"}]})]
"""A JSON schema, as it is or as its text."""

Text = Annotated[str, Field(max_length=MAX_TEXT_BYTES)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True), AfterValidator(_bounded)]


class PlainText(RequestBody):
    type: Literal["text"]


class JsonObject(RequestBody):
    type: Literal["json_object"]


class NamedSchema(RequestBody):
    """`name`, `description`: for the client's own books. `strict`: every schema is enforced as it stands."""

    name: Annotated[str, Field(max_length=256)]
    description: Text | None = None
    schema_: Annotated[ObjectText | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchema(RequestBody):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[PlainText | JsonObject | JsonSchema, Field(discriminator="type")]


class StructuredOutputs(RequestBody):
    """vLLM's: one of the first five."""

    json_: Annotated[SchemaText | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = Field(None, description="Lark as llguidance has it, or GBNF")
    json_object: bool | None = None
    whitespace_pattern: Text | None = Field(None, description="what may stand, once, wherever JSON may have white space")
    disable_any_whitespace: bool | None = None
    disable_additional_properties: Literal[False] | None = None
    structural_tag: None = None


class StructureFields(RequestBody):
    """Those fields of a body."""

    response_format: ResponseFormat | None = Field(None, description="json_schema is enforced, strict or not")
    structured_outputs: StructuredOutputs | None = Field(None, description="vLLM's")
    guided_json: SchemaText | None = Field(None, description="vLLM's; as structured_outputs.json")
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: Text | None = None
    json_schema: SchemaText | None = Field(None, description="SGLang's; as structured_outputs.json")
    regex: Text | None = Field(None, description="SGLang's; as structured_outputs.regex")
    ebnf: Text | None = Field(None, description="SGLang's; as structured_outputs.grammar")
    guided_decoding_backend: EndUser | None = Field(None, description="accepted; there is one")

    def structure(self) -> Constraint | None:
        """What the answer must be. Raises `InvalidRequest` where that is said twice."""
        said = self._constraints()
        if len(said) > 1:
            (first, _), (second, _), *_ = said
            raise InvalidRequest(f"{second} and {first} both say what the answer must be; give one", param=second)
        return said[0][1] if said else None

    def structure_field(self) -> str:
        """What this body calls it."""
        said = self._constraints()
        return said[0][0] if said else "response_format"

    def _constraints(self) -> list[tuple[str, Constraint]]:
        own, space = self.structured_outputs or StructuredOutputs(), self._whitespace()
        by_field = {
            "response_format.json_schema.schema": _of_format(self.response_format),
            "response_format": Constraint(ConstraintKind.JSON_OBJECT)
            if isinstance(self.response_format, JsonObject)
            else None,
            "structured_outputs.json": _of_schema(own.json_, space),
            "structured_outputs.regex": _of_text(ConstraintKind.REGEX, own.regex),
            "structured_outputs.choice": _of_choices(own.choice),
            "structured_outputs.grammar": _of_text(ConstraintKind.GRAMMAR, own.grammar),
            "structured_outputs.json_object": Constraint(ConstraintKind.JSON_OBJECT, whitespace=space)
            if own.json_object
            else None,
            "guided_json": _of_schema(self.guided_json, space),
            "guided_regex": _of_text(ConstraintKind.REGEX, self.guided_regex),
            "guided_choice": _of_choices(self.guided_choice),
            "guided_grammar": _of_text(ConstraintKind.GRAMMAR, self.guided_grammar),
            "json_schema": _of_schema(self.json_schema, None),
            "regex": _of_text(ConstraintKind.REGEX, self.regex),
            "ebnf": _of_text(ConstraintKind.GRAMMAR, self.ebnf),
        }
        return [(field, constraint) for field, constraint in by_field.items() if constraint is not None]

    def _whitespace(self) -> str | None:
        own = self.structured_outputs
        if own is None:
            return self.guided_whitespace_pattern
        return "" if own.disable_any_whitespace else own.whitespace_pattern


def _of_format(asked: PlainText | JsonObject | JsonSchema | None) -> Constraint | None:
    if not isinstance(asked, JsonSchema):
        return None
    schema = asked.json_schema.schema_
    return Constraint(ConstraintKind.JSON_OBJECT) if schema is None else _of_schema(schema, None)


def _of_schema(text: str | None, whitespace: str | None) -> Constraint | None:
    return None if text is None else Constraint(ConstraintKind.JSON_SCHEMA, text, whitespace=whitespace)


def _of_text(kind: ConstraintKind, text: str | None) -> Constraint | None:
    return None if text is None else Constraint(kind, text)


def _of_choices(choices: list[str] | None) -> Constraint | None:
    return None if choices is None else Constraint(ConstraintKind.CHOICE, json.dumps(choices))
