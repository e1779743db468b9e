"""How one model is asked with tools, and how its answers are read: found out once, when its prompts are loaded.

Decides what a request's tools become with this model: a parser of its answers, what they are held to, or a refusal with its reason. Knows
no template and no HTTP.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipelines.tools.answer import AnswerParser, Expected
from pipelines.tools.asked import Tools
from pipelines.tools.calls import Calls
from pipelines.tools.formats import GENERIC, Body, ThoughtMarks, ToolFormat
from pipelines.tools.grammar import CallGrammar
from pipelines.tools.reading import AnswerReader, new_call_id
from pipelines.tools.templated import TemplatedParser
from stages.contract.errors import InvalidRequest
from stages.llm.messages import Constraint, ConstraintKind, Sampling


@dataclass(frozen=True, slots=True)
class Dialect:
    """`format` None: how the model calls is not known. `knows_tools`: its template writes tools and calls; else a generic text does.
    `response_template`: the tokenizer's own word on how answers are read. `tokens`: of marks that are tokens without a text, by mark.
    `is_refused`: the configuration lets this model call nothing."""

    format: ToolFormat | None = None
    knows_tools: bool = False
    thoughts: ThoughtMarks | None = None
    response_template: Mapping[str, Any] | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    is_refused: bool = False

    def check(self, tools: Tools | None) -> None:
        """Raises `InvalidRequest` where this model can't do what is asked."""
        if tools is None:
            return
        if self.is_refused:
            raise InvalidRequest("this model calls no tools (models.*.tools is none)", param="tools")
        if tools.must_call or self.format is not None or self.response_template is not None:
            return
        why = "writes calls in no way that is known" if self.knows_tools else "knows no tools"
        raise InvalidRequest(
            f"this model's chat template {why}, so it can't choose whether to call (tool_choice auto); ask with tool_choice "
            "required or none, or name the format of its calls in the configuration (models.*.tools)",
            param="tools",
        )

    def reader(self, tools: Tools | None, begun: str) -> AnswerReader | None:
        """Of one answer; `begun`: what of it the prompt has written already. None: there is nothing to be read out of its text."""
        calls = None if tools is None else self._calls(tools)
        if self.response_template is not None and not self._is_held(tools):
            shown = [] if tools is None else [function.as_json() for function in tools.functions]
            return AnswerReader(TemplatedParser(self.response_template, begun, shown, calls))
        if calls is None and self.thoughts is None:
            return None
        return AnswerReader(AnswerParser(Expected(self.thoughts, self._is_thinking(begun), self._used(tools), calls)))

    def sampling(self, sampling: Sampling, tools: Tools | None, begun: str) -> Sampling:
        """With what an answer that may think, or call, is held to and shows."""
        after = self._thought_end(begun)
        constraint = sampling.constraint
        if constraint is not None and after and not constraint.after:
            constraint = replace(constraint, after=after)
        if tools is not None and (constraint is None or tools.must_call):
            text = self._grammar(tools, begun)
            constraint = None if text is None else Constraint(ConstraintKind.GRAMMAR, text, after=after)
        return replace(sampling, constraint=constraint, shown_tokens=(*sampling.shown_tokens, *self._shown(tools)))

    def _grammar(self, tools: Tools, begun: str) -> str | None:
        form = self._used(tools)
        if form is None or not all(function.is_enforceable for function in tools.functions):
            return None
        grammar = CallGrammar(form, tools, self.tokens)
        if not tools.must_call:
            return grammar.possible()
        return grammar.required(None if self._thought_end(begun) or self._has_thought(begun) else self.thoughts)

    def _used(self, tools: Tools | None) -> ToolFormat | None:
        """A call that must be is held to arguments as JSON; a format without gives way."""
        if tools is None:
            return None
        form = self.format or GENERIC
        return GENERIC if tools.must_call and form.body in (Body.PYTHON, Body.TAGS) else form

    def _is_held(self, tools: Tools | None) -> bool:
        return tools is not None and tools.must_call

    def _is_thinking(self, begun: str) -> bool:
        return self.thoughts is not None and begun.rstrip().endswith(self.thoughts.opening)

    def _has_thought(self, begun: str) -> bool:
        """Whether the prompt has written a whole thought, so that the answer needs none."""
        return self.thoughts is not None and begun.rstrip().endswith(self.thoughts.closing)

    def _thought_end(self, begun: str) -> str:
        """The mark behind which it answers; "": it does so from the beginning."""
        return self.thoughts.closing if self.thoughts is not None and self._is_thinking(begun) else ""

    def _calls(self, tools: Tools) -> Calls:
        form = self._used(tools)
        num_chars = self.format.num_id_chars if self.format is not None else None
        known = tools.names() if form is not None and form.is_bare else None
        types = {one.name: one.parameters.get("properties", {}) for one in tools.functions}
        return Calls(partial(new_call_id, num_chars), known, types, tools.parallel)

    def _shown(self, tools: Tools | None) -> tuple[int, ...]:
        if self.response_template is not None:
            return tuple(self.tokens.values())
        form = self._used(tools)
        marks = ("" if form is None else form.marks) + (
            "" if self.thoughts is None else self.thoughts.opening + self.thoughts.closing
        )
        return tuple(token for mark, token in self.tokens.items() if mark in marks)
