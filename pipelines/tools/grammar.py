"""What an answer that must call is held to, and what one that may call is held to once its call has begun: a grammar, so that arguments
always are what the function's schema says.

Decides the grammar's form, in llguidance's dialect of Lark; knows no vocabulary, and leaves it to `stages/llm/structure/` to check it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.tools.asked import NO_PARAMETERS, Function, Tools
from pipelines.tools.formats import Body, ThoughtMarks, ToolFormat
from stages.llm.structure.grammars import json_rule, literal

_SPACE = r"space: /( |\n {0,16})?/"
_ANYTHING = r"/(?s:.*)/"
_COMMON = (_SPACE, r"lines: /[ \n]{0,4}/", r"number: /[0-9]{1,3}/")


def arguments_schema(function: Function) -> Mapping[str, Any]:
    """What a call's arguments are held to: always an object, and an empty one where the function declares no parameters."""
    if function.parameters in ({}, NO_PARAMETERS):
        return {**NO_PARAMETERS, "additionalProperties": False}
    return {"type": "object", **function.parameters}


@dataclass(frozen=True, slots=True)
class Thought:
    """That an answer may begin with; `is_begun`: that it is in the middle of, and must end. `tokens`: of marks that are no text."""

    marks: ThoughtMarks
    tokens: Mapping[str, int]
    is_begun: bool = False

    def rule(self) -> str:
        opening, closing = ("" if self.is_begun else self.marks.opening), self.marks.closing
        if closing in self.tokens:
            return f"thought: {_written(opening, self.tokens)} {_ANYTHING} {_written(closing, self.tokens)}"
        return f"thought[suffix={literal(closing)}]: /{_pattern(opening)}(?s:.*)/"

    def before(self) -> str:
        return "thought lines" if self.is_begun else "(thought lines)?"


def behind_thought(thought: Thought | None, answer: str) -> str:
    """An answer that is what the rule `answer` says."""
    return "\n".join([*_started(thought, "answer"), *_COMMON, f"answer: {answer}"])


def _started(thought: Thought | None, what: str) -> list[str]:
    if thought is None:
        return [f"start: lines {what}"]
    return [f"start: {thought.before()} lines {what}", thought.rule()]


class CallGrammar:
    """Of one request. `tokens`: of marks that are no text, by mark."""

    def __init__(self, form: ToolFormat, tools: Tools, tokens: Mapping[str, int]) -> None:
        self._form, self._tools, self._tokens = form, tools, tokens

    def required(self, thought: Thought | None = None) -> str:
        """An answer that calls."""
        return self._rules(_started(thought, self._call()))

    def beside(self, answer: str, thought: Thought | None = None) -> str:
        """An answer that calls, or is what the rule `answer` says."""
        return self._rules([*_started(thought, f"(answer | {self._call()})"), f"answer: {answer}"])

    def opened(self) -> str | None:
        """What stands behind the mark that calls begin with. None: the format has no such mark, or no arguments as JSON."""
        return self._rules(["start: rest"]) if self._is_marked else None

    def possible(self) -> str | None:
        """An answer that may call, and does so as it should once it has begun to. None as above."""
        if not self._is_marked:
            return None
        opening = self._form.openings[0]
        if opening in self._tokens:
            return self._rules([f"start: TAIL | {_ANYTHING} {self._written(opening)} rest", f"TAIL: {_ANYTHING}"])
        return self._rules(["start: TAIL | head rest", f"TAIL: {_ANYTHING}", f"head[lazy]: /(?s:.*){_pattern(opening)}/"])

    @property
    def _is_marked(self) -> bool:
        return not self._form.is_bare and self._form.body not in (Body.PYTHON, Body.TAGS)

    def _call(self) -> str:
        return _join(self._opening(), "rest")

    def _rules(self, start: Sequence[str]) -> str:
        functions = self._tools.functions
        bodies = [f"body_{place}: {self._body(place, function)}" for place, function in enumerate(functions)]
        arguments = [
            f"args_{place}: {json_rule(dict(arguments_schema(function)))}" for place, function in enumerate(functions)
        ]
        body = "body: " + " | ".join(f"body_{place}" for place in range(len(functions)))
        return "\n".join([*start, f"rest: {self._rest()}", *_COMMON, body, *bodies, *arguments])

    def _opening(self) -> str:
        """What calls begin with; a bare format's, with nothing."""
        return "" if self._form.is_bare else self._written(self._form.openings[0])

    def _rest(self) -> str:
        """Everything behind the opening."""
        form, more = self._form, self._tools.parallel and not self._form.is_bare
        call = "" if form.is_bare else self._written(form.call.before)
        end = "" if form.is_bare else self._written(form.call.behind)
        if form.body is Body.LIST:
            members = 'body (space "," space body)*' if more else "body"
            return _join('space "[" space', members, 'space "]" space', end)
        first = _join("space body space", end)
        again = f"(space {_join(call, first)})*" if more else ""
        if not form.section.before:
            return _join(first, again)
        return _join("space", call, first, again, "space", self._written(form.section.behind))

    def _body(self, place: int, function: Function) -> str:
        name, arguments = literal(function.name), f"args_{place}"
        if self._form.body is Body.NAMED:
            marks = self._form.named
            number = '":" number' if marks.is_numbered else ""
            written = map(self._written, (marks.before, marks.between, marks.behind))
            before, between, behind = written
            return _join(before, name, number, between, arguments, behind)
        members = [("name", literal(json.dumps(function.name))), (self._form.arguments_key, arguments)]
        inside = ' space "," space '.join(f'{literal(json.dumps(key))} space ":" space {value}' for key, value in members)
        return f'"{{" space {inside} space "}}"'

    def _written(self, text: str) -> str:
        return _written(text, self._tokens)


def _written(text: str, tokens: Mapping[str, int]) -> str:
    """`text`, and the tokens in it that are none."""
    pieces: Sequence[str] = [text]
    if tokens:
        pieces = re.split(f"({'|'.join(map(re.escape, sorted(tokens, key=len, reverse=True)))})", text)
    return " ".join(f"<[{tokens[one]}]>" if one in tokens else literal(one) for one in pieces if one)


def _join(*pieces: str) -> str:
    return " ".join(piece for piece in pieces if piece)


def _pattern(text: str) -> str:
    """`text` itself, within a regular expression."""
    return re.escape(text).replace("/", r"\/")
