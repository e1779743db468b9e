"""What an answer thinks, says and calls, out of its text, however it comes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.tools.events import ToolArgumentsDelta, ToolCallBegun
from pipelines.tools.formats import BY_NAME, FORMATS
from stages.llm.messages import TokenDelta
from tests.pipelines.tools.answers import Understood, parser, read

SUM = '{"a": 1, "b": [2, {"c": "}]\\""}]}'
WRITTEN = {
    "hermes": (
        f'<tool_call>\n{{"name": "add", "arguments": {SUM}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    ),
    "qwen_coder": (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n"
        '[2, {"c": "}]\\""}]\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>'
    ),
    "mistral": f'[TOOL_CALLS] [{{"name": "add", "arguments": {SUM}}}, {{"name": "now", "arguments": {{}}}}]',
    "mistral_named": f"[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{SUM}[TOOL_CALLS]now[ARGS]{{}}",
    "deepseek": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{SUM}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "deepseek_v3": (
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{SUM}\n```<｜tool▁call▁end｜>\n"
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "kimi": (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{SUM}<|tool_call_end|>"
        "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    ),
    "phi": f'<|tool_call|>[{{"name": "add", "arguments": {SUM}}}, {{"name": "now", "arguments": {{}}}}]<|/tool_call|>',
    "llama4_pythonic": "<|python_start|>[add(a=1, b=[2, {'c': '}]\"'}]), now()]<|python_end|>",
    "pythonic": "[add(a=1, b=[2, {'c': '}]\"'}]), now()]",
    "llama3": f'{{"name": "add", "parameters": {SUM}}}; {{"name": "now", "parameters": {{}}}}',
}
"""The same two calls, as each family writes them."""


def as_values(found: Understood) -> list[tuple[str, object]]:
    return [(name, json.loads(arguments)) for name, arguments in found.calls]


def test_every_family_has_an_example() -> None:
    assert set(WRITTEN) == {one.name for one in FORMATS}


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("form", WRITTEN)
def test_two_calls_are_read_as_every_family_writes_them(form: str, pieces: int) -> None:
    known = ("add", "now") if BY_NAME[form].is_bare else None
    found = read(WRITTEN[form], form, pieces, known=known)
    assert as_values(found) == [("add", json.loads(SUM)), ("now", {})]
    assert (found.text, found.thought) == ("", "")


@pytest.mark.parametrize("form", [form for form in WRITTEN if not BY_NAME[form].is_bare])
def test_what_is_said_before_a_call_is_told_without_the_space_between(form: str) -> None:
    found = read(f"I look it up. \n{WRITTEN[form]}", form)
    assert found.text == "I look it up."
    assert [name for name, _ in found.calls] == ["add", "now"]


@pytest.mark.parametrize("form", WRITTEN)
def test_with_one_call_at_most_the_others_are_not_told(form: str) -> None:
    found = read(WRITTEN[form], form, known=("add", "now"), parallel=False)
    assert [name for name, _ in found.calls] == ["add"]
    assert "now" not in found.text


def test_arguments_come_while_they_are_written() -> None:
    reader = parser("hermes")
    events = list(reader.feed('<tool_call>{"name": "f", "arguments": {"text": "a long'))
    assert [type(event) for event in events] == [ToolCallBegun, ToolArgumentsDelta]
    assert reader.has_called
    assert reader.feed(" story") == [ToolArgumentsDelta(0, " story")]


def test_text_without_a_mark_comes_at_once() -> None:
    reader = parser("hermes")
    assert reader.feed("Hello") == [TokenDelta("Hello", 0)]
    assert reader.feed(" <") == []
    assert reader.feed("3") == [TokenDelta(" <3", 0)]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", "<tool_call> is how models call"),
        ("hermes", "<tool_call>"),
        ("hermes", "<tool_call>{}</tool_call>"),
        ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "argum'),
        ("hermes", '<tool_call>{"name": "f\\ud800", "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call>{'name': 'f'}</tool_call>"),
        ("hermes", "a < b and <tool_ca"),
        ("hermes", "  indented\n"),
        ("mistral", "[TOOL_CALLS] [1, 2]"),
        ("mistral_named", "[TOOL_CALLS] no such {thing}"),
        ("pythonic", "[1, 2, 3] are numbers"),
        ("pythonic", "[add(1)]"),
        ("pythonic", "[add(a=__import__('os'))]"),
        ("pythonic", "[other(a=1)]"),
        ("pythonic", "[add(a=1"),
        ("llama3", '{"name": "Alice", "age": 3}'),
        ("llama3", '{"answer": 42}'),
        ("llama3", "{not json}"),
        ("qwen_coder", "<tool_call><function=f><parameter=a>1"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 5, 1000])
def test_what_is_no_call_is_given_back_as_it_was_written(form: str, text: str, pieces: int) -> None:
    found = read(text, form, pieces, known=("add",) if BY_NAME[form].is_bare else None)
    assert (found.text, found.calls) == (text, [])


def test_a_mark_within_a_mark_is_read_as_one() -> None:
    found = read('<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>', "hermes")
    assert (found.text, found.calls) == ("", [("f", "{}")])


@pytest.mark.parametrize(
    "call",
    [
        '{"arguments": {"a": 1}, "name": "f"}',
        '{"name": "f", "arguments": "{\\"a\\": 1}"}',
        '{"id": 7, "name": "f", "arguments": {"a": 1}, "more": [{}]}',
        '{"function": "f", "parameters": {"a": 1}}',
    ],
)
def test_a_calls_members_may_come_in_any_order_and_arguments_as_a_text(call: str) -> None:
    assert as_values(read(f"<tool_call>{call}</tool_call>", "hermes")) == [("f", {"a": 1})]


def test_a_call_without_arguments_has_none() -> None:
    assert read('<tool_call>{"name": "f"}</tool_call>', "hermes").calls == [("f", "{}")]
    assert read('<tool_call>{"name": "f", "arguments": null}</tool_call>', "hermes").calls == [("f", "{}")]


def test_arguments_that_are_cut_are_told_as_far_as_they_came() -> None:
    assert read('<tool_call>{"name": "f", "arguments": {"a": "b', "hermes").calls == [("f", '{"a": "b')]


def test_what_is_said_after_calls_is_told() -> None:
    found = read(f"{WRITTEN['hermes']}\n\nDone.\n", "hermes")
    assert found.text == "Done.\n"
    assert len(found.calls) == 2


@pytest.mark.parametrize("pieces", [1, 4, 1000])
def test_a_thought_is_told_apart_without_its_marks(pieces: int) -> None:
    found = read("<think>\nLet me see.\n</think>\n\nYes.", None, pieces, thinks=True)
    assert found == Understood("Yes.", "Let me see.")


def test_a_thought_that_the_prompt_began_ends_with_its_mark() -> None:
    assert read("hm\n</think>\n\nYes.", None, is_thinking=True) == Understood("Yes.", "hm")
    assert read("<think>hm</think>Yes.", None, is_thinking=True) == Understood("Yes.", "hm")
    assert read("no end", None, is_thinking=True) == Understood("", "no end")


def test_an_answer_without_a_thought_is_as_it_was_written() -> None:
    assert read("  <thinking> aloud </think>\n", None, thinks=True) == Understood("  <thinking> aloud </think>\n")


def test_a_call_that_is_only_thought_of_is_none() -> None:
    found = read(f"<think>maybe {WRITTEN['hermes']}</think>{WRITTEN['hermes']}", "hermes", thinks=True)
    assert found.thought == f"maybe {WRITTEN['hermes']}"
    assert len(found.calls) == 2


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool", "_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
        *('{"name": "f"', ', "arguments": ', "{", "}", '{"a": 1}', '"', "\\", "[", "]", ",", ":", ";", "f(", "a=1", ")", "'"),
        *(
            "<function=f>",
            "<parameter=a>",
            "</parameter>",
            "</function>",
            " ",
            "\n",
            "é",
            "\U0001f642",
            "\ufffd",
            "null",
            "x" * 50,
        ),
    ]
)


@given(st.lists(PIECES, max_size=20), st.sampled_from([*WRITTEN, None]), st.booleans(), st.data())
def test_hostile_text_is_read_the_same_however_it_is_cut(
    pieces: list[str], form: str | None, thinks: bool, data: st.DataObject
) -> None:
    text = "".join(pieces)
    whole = read(text, form, [text], known=("f",), thinks=thinks)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=10)))
    cut = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(text, form, cut, known=("f",), thinks=thinks) == whole
    if not whole.calls and not (thinks and text.lstrip().startswith("<think>")):
        assert whole.text == text
    assert all(name == "f" for name, _ in whole.calls)


@given(
    st.dictionaries(
        st.text(max_size=5), st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=5), max_size=4
    )
)
def test_arguments_of_any_json_come_back_as_they_were(arguments: dict[str, object]) -> None:
    call = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False)
    found = read(f"<tool_call>{call}</tool_call>", "hermes")
    assert as_values(found) == [("f", json.loads(json.dumps(arguments)))]
