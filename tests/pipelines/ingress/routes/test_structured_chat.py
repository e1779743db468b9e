"""The form of an answer, as OpenAI's and vLLM's clients ask for it: what reaches the pipeline, and what is refused before anything runs."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stages.llm.messages import Constraint, ConstraintKind
from tests.pipelines.ingress.routes.test_chat import PATH, asked, refused
from tests.pipelines.ingress.staged import Staged
from tests.pipelines.ingress.surface import JsonObject, chat_body, client_for, error_of

SCHEMA: JsonObject = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TEXT = json.dumps(SCHEMA, ensure_ascii=False)
OF_SCHEMA = Constraint(ConstraintKind.JSON_SCHEMA, TEXT)


def named(**fields: Any) -> JsonObject:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", **fields}}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint(ConstraintKind.JSON_OBJECT)),
        (named(schema=SCHEMA), OF_SCHEMA),
        (named(schema=SCHEMA, strict=True, description="what it is for"), OF_SCHEMA),
        (named(schema=SCHEMA, strict=False), OF_SCHEMA),
        (named(), Constraint(ConstraintKind.JSON_OBJECT)),
        ({"guided_json": SCHEMA}, OF_SCHEMA),
        ({"guided_json": TEXT, "guided_decoding_backend": "xgrammar"}, OF_SCHEMA),
        (
            {"guided_json": TEXT, "guided_whitespace_pattern": " ?"},
            Constraint(ConstraintKind.JSON_SCHEMA, TEXT, whitespace=" ?"),
        ),
        ({"guided_regex": "a+"}, Constraint(ConstraintKind.REGEX, "a+")),
        ({"guided_choice": ["yes", "no"]}, Constraint(ConstraintKind.CHOICE, '["yes", "no"]')),
        ({"guided_grammar": 'root ::= "a"'}, Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"')),
        ({"json_schema": TEXT}, OF_SCHEMA),
        ({"regex": "a+"}, Constraint(ConstraintKind.REGEX, "a+")),
        ({"ebnf": 'root ::= "a"'}, Constraint(ConstraintKind.GRAMMAR, 'root ::= "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, OF_SCHEMA),
        (
            {"structured_outputs": {"json": TEXT, "disable_any_whitespace": True}},
            Constraint(ConstraintKind.JSON_SCHEMA, TEXT, whitespace=""),
        ),
        ({"structured_outputs": {"regex": "a+"}}, Constraint(ConstraintKind.REGEX, "a+")),
        ({"structured_outputs": {"choice": ["yes"]}}, Constraint(ConstraintKind.CHOICE, '["yes"]')),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint(ConstraintKind.GRAMMAR, 'start: "a"')),
        ({"structured_outputs": {"json_object": True}}, Constraint(ConstraintKind.JSON_OBJECT)),
        ({"structured_outputs": None, "guided_json": None, "response_format": None}, None),
    ],
)
async def test_every_way_to_ask_for_a_form_is_understood(fields: JsonObject, constraint: Constraint | None) -> None:
    """JSON needs no word of it in the messages: it is enforced."""
    assert (await asked(chat_body(**fields))).sampling.constraint == constraint


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"response_format": {"type": "structural_tag"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name", "required"),
        (named(schema=[SCHEMA]), "response_format.json_schema.schema", "must be an object"),
        (named(schema=SCHEMA, kind="x"), "response_format.json_schema.kind", "not supported"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "give one"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs.regex", "give one"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "null"),
        (
            {"structured_outputs": {"disable_additional_properties": True}},
            "structured_outputs.disable_additional_properties",
            "False",
        ),
        (named(schema={"description": "x" * 70_000}), "response_format.json_schema.schema", "65536"),
        (
            named(schema={"properties": {f"k{i}": {} for i in range(4000)}, "enum": ["x" * 20] * 4000}),
            "response_format.json_schema.schema",
            "65536",
        ),
        ({"guided_json": "x" * 70_000}, "guided_json", "65536"),
        ({"guided_json": 5}, "guided_json", "must be an object"),
        ({"guided_regex": "x" * 70_000}, "guided_regex", "65536"),
        ({"guided_choice": ["x" * 1000] * 70}, "guided_choice", "65536"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_choice": ["a", 1]}, "guided_choice[1]", "string"),
    ],
)
async def test_what_is_not_understood_is_told_by_its_field(fields: JsonObject, param: str, told: str) -> None:
    error = await refused(chat_body(**fields))
    assert error["param"] == param
    assert told in error["message"]


@pytest.fixture
async def staged() -> AsyncIterator[Staged]:
    service = Staged()
    yield service
    await service.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        (
            named(schema={"properties": {"a": {"not": {}}}}),
            "response_format.json_schema.schema",
            "the keyword not (at $.properties.a.not)",
        ),
        (
            named(schema={"type": "array", "uniqueItems": True}, strict=False),
            "response_format.json_schema.schema",
            "uniqueItems",
        ),
        ({"guided_json": "{"}, "guided_json", "no JSON schema"),
        ({"guided_regex": "[a"}, "guided_regex", "unclosed"),
        ({"guided_grammar": "start: y"}, "guided_grammar", '"y"'),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "(?=a)"}}, "structured_outputs.json", "look-around"),
    ],
)
async def test_what_cant_be_enforced_is_refused_before_anything_runs(
    staged: Staged, fields: JsonObject, param: str, told: str, stream: bool
) -> None:
    async with client_for(staged) as client:
        response = await client.post(
            PATH, content=json.dumps(chat_body(stream=stream, **fields)), headers={"content-type": "application/json"}
        )
    assert response.status_code == 400, response.text
    error = error_of(response)
    assert error["param"] == param
    assert error["message"].startswith(param)
    assert told in error["message"]
    assert sum(stage.counters["items_total"] for stage in staged.host.metrics()) == 0
