"""How families of models write thoughts and calls: the marks about them, as a table. Decides which family a template belongs to, by what it
writes of a call that was made. Knows no tokenizer and no requests.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Body(Enum):
    """What stands between the marks: an object with a name and arguments; a list of those; a name, and then the arguments as an object;
    a list of calls as Python; tags."""

    OBJECT = "object"
    LIST = "list"
    NAMED = "named"
    PYTHON = "python"
    TAGS = "tags"


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands before and behind something; "": nothing does."""

    before: str = ""
    behind: str = ""


@dataclass(frozen=True, slots=True)
class NamedMarks:
    """What stands before a name, between it and the arguments, and behind those. `id_mark`: behind the name, where an id may follow it;
    `is_numbered`: behind the name a colon and the call's number."""

    before: str = ""
    between: str = ""
    behind: str = ""
    id_mark: str = ""
    is_numbered: bool = False


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`section`: about all calls; `call`: about each (of `LIST` and `PYTHON`: about the list). `is_bare`: calls may also be all of the
    answer, without a mark. `sign`: what a template that writes so writes of a call of `PROBE`. `num_id_chars`: of a call's id, where
    templates insist on it."""

    name: str
    body: Body
    sign: re.Pattern[str]
    section: Marks = Marks()
    call: Marks = Marks()
    named: NamedMarks = NamedMarks()
    arguments_key: str = "arguments"
    is_bare: bool = False
    num_id_chars: int | None = None

    @property
    def openings(self) -> tuple[str, ...]:
        """Any of them begins calls; the outer comes first."""
        return tuple(mark for mark in (self.section.before, self.call.before) if mark)

    @property
    def closings(self) -> tuple[str, ...]:
        """What may stand behind a call, the inner first."""
        marks = (self.named.behind.strip(), self.call.behind, self.section.behind)
        return tuple(mark for mark in marks if mark)

    @property
    def marks(self) -> str:
        """All of them, to look for tokens in."""
        return "\n".join((*self.openings, *self.closings, self.named.before, self.named.between, self.named.id_mark))


PROBE = "probe_function"
"""The function that a template is asked to write a call of."""

_NAME = rf'"name":\s*"{PROBE}"'
_HERMES = Marks("<tool_call>", "</tool_call>")
_DEEPSEEK_SECTION = Marks("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK = Marks("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat("qwen_coder", Body.TAGS, re.compile(rf"<tool_call>\s*<function={PROBE}>"), call=_HERMES),
    ToolFormat("hermes", Body.OBJECT, re.compile(rf"<tool_call>\s*\{{.*{_NAME}", re.DOTALL), call=_HERMES),
    ToolFormat(
        "mistral",
        Body.LIST,
        re.compile(rf"\[TOOL_CALLS\]\s*\[\s*\{{.*{_NAME}", re.DOTALL),
        call=Marks("[TOOL_CALLS]"),
        num_id_chars=9,
    ),
    ToolFormat(
        "mistral_named",
        Body.NAMED,
        re.compile(rf"\[TOOL_CALLS\]\s*{PROBE}"),
        call=Marks("[TOOL_CALLS]"),
        named=NamedMarks(between="[ARGS]", id_mark="[CALL_ID]"),
        num_id_chars=9,
    ),
    ToolFormat(
        "deepseek",
        Body.NAMED,
        re.compile(rf"<｜tool▁call▁begin｜>{PROBE}<｜tool▁sep｜>"),
        section=_DEEPSEEK_SECTION,
        call=_DEEPSEEK,
        named=NamedMarks(between="<｜tool▁sep｜>"),
    ),
    ToolFormat(
        "deepseek_v3",
        Body.NAMED,
        re.compile(rf"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{PROBE}"),
        section=_DEEPSEEK_SECTION,
        call=_DEEPSEEK,
        named=NamedMarks("function<｜tool▁sep｜>", "\n```json\n", "\n```"),
    ),
    ToolFormat(
        "kimi",
        Body.NAMED,
        re.compile(r"<\|tool_call_begin\|>"),
        section=Marks("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        call=Marks("<|tool_call_begin|>", "<|tool_call_end|>"),
        named=NamedMarks("functions.", "<|tool_call_argument_begin|>", is_numbered=True),
    ),
    ToolFormat(
        "phi",
        Body.LIST,
        re.compile(rf"<\|tool_call\|>\s*\[\s*\{{.*{_NAME}", re.DOTALL),
        call=Marks("<|tool_call|>", "<|/tool_call|>"),
    ),
    ToolFormat(
        "llama4_pythonic",
        Body.PYTHON,
        re.compile(rf"<\|python_start\|>\[{PROBE}\("),
        call=Marks("<|python_start|>", "<|python_end|>"),
        is_bare=True,
    ),
    ToolFormat("pythonic", Body.PYTHON, re.compile(rf"\[{PROBE}\("), is_bare=True),
    ToolFormat(
        "llama3",
        Body.OBJECT,
        re.compile(rf'{_NAME},\s*"parameters"'),
        call=Marks("<|python_tag|>"),
        arguments_key="parameters",
        is_bare=True,
    ),
)
GENERIC = next(one for one in FORMATS if one.name == "hermes")
"""What models are asked for whose own template knows no tools."""
BY_NAME = {one.name: one for one in FORMATS}


def format_of(written: str) -> ToolFormat | None:
    """`written`: what a template wrote of a conversation with a call of `PROBE`. None: in no way that is known."""
    return next((one for one in FORMATS if one.sign.search(written)), None)


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    opening: str
    closing: str


THOUGHT_MARKS: Sequence[ThoughtMarks] = (
    ThoughtMarks("<think>", "</think>"),
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>"),
)


def thought_marks_in(template: str) -> ThoughtMarks | None:
    """Those whose end a template knows of; None: the model doesn't think aloud, or not in a way that is known."""
    return next((marks for marks in THOUGHT_MARKS if marks.closing in template), None)
