"""What answers that call are held to: every family's calls, and nothing else."""

import re
from collections.abc import Mapping

import pytest
from llguidance import LLMatcher, LLTokenizer

from pipelines.tools.asked import NO_PARAMETERS, Function, ToolChoice, Tools
from pipelines.tools.formats import BY_NAME, THOUGHT_MARKS, Body
from pipelines.tools.grammar import CallGrammar, Thought, arguments_schema, behind_thought
from stages.llm.messages import Constraint, ConstraintKind
from stages.llm.structure.checking import check
from stages.llm.structure.grammars import grammar

BYTES = LLTokenizer("byte")
DAYS = {"$ref": "#/$defs/days"}
WEATHER = Function(
    "weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": DAYS},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"days": {"type": "integer"}},
    },
)
NOW = Function("now")
MUST, MAY = Tools((WEATHER, NOW), ToolChoice.REQUIRED), Tools((WEATHER, NOW))
AS_JSON = [name for name, form in BY_NAME.items() if form.body not in (Body.PYTHON, Body.TAGS)]
MARKED = [name for name in AS_JSON if not BY_NAME[name].is_bare]
GOOD, WRONG = '{"city": "Bern", "days": 3}', '{"town": "Bern"}'


CALL = {
    "hermes": '<tool_call>\n{"name": "NAME", "arguments": ARGS}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "NAME", "arguments": ARGS}]',
    "mistral_named": "[TOOL_CALLS]NAME[ARGS]ARGS",
    "deepseek": ("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>ARGS<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    "deepseek_v3": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nARGS\n```<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>"
    ),
    "kimi": (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>ARGS<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    ),
    "phi": '<|tool_call|>[{"name": "NAME", "arguments": ARGS}]<|/tool_call|>',
    "llama3": '{"name": "NAME", "parameters": ARGS}',
}


def written(form: str, arguments: str, name: str = "weather") -> str:
    return re.sub("NAME|(?<!\\[)ARGS", lambda found: name if found[0] == "NAME" else arguments, CALL[form])


def accepts(lark: str, text: str) -> bool:
    """Whether an answer may be `text`, and end there."""
    check(Constraint(ConstraintKind.GRAMMAR, lark))
    matcher = LLMatcher(BYTES, grammar(Constraint(ConstraintKind.GRAMMAR, lark)))
    assert not matcher.is_error(), matcher.get_error()
    tokens = BYTES.tokenize_str(text)
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def of(form: str, tools: Tools = MUST, tokens: Mapping[str, int] | None = None) -> CallGrammar:
    return CallGrammar(BY_NAME[form], tools, tokens or {})


@pytest.mark.parametrize("form", AS_JSON)
def test_a_required_call_has_arguments_of_its_schema_and_nothing_stands_beside_it(form: str) -> None:
    lark = of(form).required(None)
    assert accepts(lark, written(form, GOOD))
    for other in (written(form, WRONG), written(form, GOOD, "wether"), f"Sure! {written(form, GOOD)}", "", "no"):
        assert not accepts(lark, other)


@pytest.mark.parametrize("form", MARKED)
def test_a_call_that_may_be_is_held_to_its_schema_once_it_has_begun(form: str) -> None:
    lark = of(form, MAY).possible()
    assert lark is not None
    for good in (written(form, GOOD), f"I look. {written(form, GOOD)}", "Nothing to look up.", ""):
        assert accepts(lark, good)
    assert not accepts(lark, f"I look. {written(form, WRONG)}")


@pytest.mark.parametrize("form", [name for name in BY_NAME if name not in MARKED])
def test_a_format_without_a_mark_or_without_json_is_held_to_nothing_where_it_need_not_call(form: str) -> None:
    assert of(form, MAY).possible() is None


def test_one_call_at_most_is_one() -> None:
    two = "\n".join([written("hermes", GOOD)] * 2)
    assert accepts(of("hermes").required(None), two)
    assert not accepts(of("hermes", Tools(MUST.functions, MUST.choice, parallel=False)).required(None), two)


def test_a_model_that_thinks_may_think_before_it_must_call() -> None:
    lark = of("hermes").required(Thought(THOUGHT_MARKS[0], {}))
    call = written("hermes", GOOD)
    for good in (call, f"<think>\nperhaps <tool_call>\n</think>\n\n{call}"):
        assert accepts(lark, good)
    for wrong in ("<think>only</think>", f"<think>{call}", f"thinking</think>{call}"):
        assert not accepts(lark, wrong)


def test_a_thought_that_has_begun_must_end_before_the_call() -> None:
    lark = of("hermes").required(Thought(THOUGHT_MARKS[0], {}, is_begun=True))
    assert accepts(lark, f"perhaps</think>\n{written('hermes', GOOD)}")
    assert not accepts(lark, written("hermes", GOOD))


def test_a_form_that_is_asked_for_may_stand_behind_a_thought() -> None:
    lark = behind_thought(Thought(THOUGHT_MARKS[0], {}), '%json {"type": "integer"}')
    for good in ("7", "<think>six or\nseven</think>\n\n7"):
        assert accepts(lark, good)
    assert not accepts(lark, "<think>7")


def test_what_stands_behind_a_mark_that_is_a_token_is_the_rest_of_a_call() -> None:
    lark = of("hermes", MAY).opened()
    assert lark is not None
    assert accepts(lark, written("hermes", GOOD).removeprefix("<tool_call>"))
    assert not accepts(lark, written("hermes", WRONG).removeprefix("<tool_call>"))
    assert of("llama3", MAY).opened() is None


def test_an_answer_is_a_call_or_what_it_must_be_else() -> None:
    lark = of("hermes", MAY).beside('%json {"type": "integer"}')
    for good in ("7", written("hermes", GOOD)):
        assert accepts(lark, good)
    for wrong in ("seven", written("hermes", WRONG), ""):
        assert not accepts(lark, wrong)


def test_a_mark_that_is_a_token_is_named_by_its_number() -> None:
    token = 7
    for lark in (
        of("mistral", MUST, {"[TOOL_CALLS]": token}).required(None),
        of("mistral", MAY, {"[TOOL_CALLS]": token}).possible(),
    ):
        assert lark is not None
        assert f"<[{token}]>" in lark
        assert '"[TOOL_CALLS]"' not in lark
        check(Constraint(ConstraintKind.GRAMMAR, lark))


def test_a_function_without_parameters_takes_none() -> None:
    assert arguments_schema(NOW) == {**NO_PARAMETERS, "additionalProperties": False}
    lark = of("hermes", Tools((NOW,), ToolChoice.REQUIRED)).required(None)
    assert accepts(lark, written("hermes", "{}", "now"))
    assert not accepts(lark, written("hermes", '{"a": 1}', "now"))


def test_arguments_are_always_an_object() -> None:
    free = Function("f", parameters={"properties": {"a": {"type": "integer"}}})
    lark = of("hermes", Tools((free,), ToolChoice.REQUIRED)).required(None)
    assert accepts(lark, written("hermes", '{"a": 1}', "f"))
    assert not accepts(lark, written("hermes", "[1]", "f"))
