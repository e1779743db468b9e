"""How one model is asked with tools, and how its answers are read: found out once, when its prompts are loaded.

Decides what a request's tools become with this model: a parser of its answers, what they are held to, or a refusal with its reason. Knows
no template and no HTTP.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pipelines.tools.answer import AnswerParser, Expected
from pipelines.tools.asked import ToolChoice, Tools
from pipelines.tools.calls import Calls
from pipelines.tools.formats import GENERIC, Body, ThoughtMarks, ToolFormat
from pipelines.tools.grammar import CallGrammar, Thought, behind_thought
from pipelines.tools.reading import AnswerReader, new_call_id
from pipelines.tools.templated import TemplatedParser
from stages.contract.errors import InvalidRequest
from stages.llm.messages import Constraint, ConstraintKind, Sampling
from stages.llm.structure.grammars import rule


@dataclass(frozen=True, slots=True)
class Dialect:
    """`format` None: how the model calls is not known. `knows_tools`: its template writes tools and calls; else a generic text does.
    `response_template`: the tokenizer's own word on how answers are read. `tokens`: of marks that are one token; `special`: those of them
    that have no text. `is_refused`: the configuration lets this model call nothing."""

    format: ToolFormat | None = None
    knows_tools: bool = False
    thoughts: ThoughtMarks | None = None
    response_template: Mapping[str, Any] | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    special: Mapping[str, int] = field(default_factory=dict)
    is_refused: bool = False

    @property
    def choices(self) -> tuple[ToolChoice, ...]:
        """How this model may be asked to call; `check` says why not otherwise."""
        if self.is_refused:
            return ()
        knows_how = self.format is not None or self.response_template is not None
        return (ToolChoice.AUTO, ToolChoice.REQUIRED) if knows_how else (ToolChoice.REQUIRED,)

    def check(self, tools: Tools | None, constraint: Constraint | None = None) -> None:
        """Raises `InvalidRequest` where this model can't do what is asked."""
        if tools is None:
            return
        if self.is_refused:
            raise InvalidRequest("this model calls no tools (models.*.tools is none)", param="tools")
        if tools.must_call:
            return
        if constraint is not None and constraint.kind is ConstraintKind.GRAMMAR:
            raise InvalidRequest(
                "an answer can't be held to a grammar or else call; leave out tools, or ask with tool_choice required or none",
                param="tools",
            )
        if ToolChoice.AUTO not in self.choices:
            why = "writes calls in no way that is known" if self.knows_tools else "knows no tools"
            raise InvalidRequest(
                f"this model's chat template {why}, so it can't choose whether to call (tool_choice auto); ask with tool_choice "
                "required or none, or name the format of its calls in the configuration (models.*.tools)",
                param="tools",
            )

    def answer(self, sampling: Sampling, tools: Tools | None, begun: str) -> "Answer":
        """`begun`: what of the answer the prompt has written already."""
        return Answer(self, sampling, tools, begun)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model is to answer to one request. `begun`: what the prompt ends with."""

    dialect: Dialect
    asked: Sampling
    tools: Tools | None
    begun: str

    def reader(self) -> AnswerReader | None:
        """Of one choice. None: there is nothing to be read out of its text."""
        calls, template = self._calls(), self.dialect.response_template
        if template is not None and not self._is_held:
            shown = [] if self.tools is None else [function.as_json() for function in self.tools.functions]
            return AnswerReader(TemplatedParser(template, self.begun, shown, calls))
        if calls is None and self.dialect.thoughts is None:
            return None
        return AnswerReader(AnswerParser(Expected(self.dialect.thoughts, self._is_thinking, self._form, calls)))

    def sampling(self) -> Sampling:
        """With what an answer that may think, or call, is held to and shows. Raises `InvalidRequest`."""
        constraint = self._called() or self._thought_of()
        return replace(self.asked, constraint=constraint, shown_tokens=(*self.asked.shown_tokens, *self._shown()))

    def _called(self) -> Constraint | None:
        """What an answer with calls is held to; None: to what it was asked to be, or to nothing."""
        form, tools, asked = self._form, self.tools, self.asked.constraint
        if form is None or tools is None or not all(function.is_enforceable for function in tools.functions):
            return None
        grammar = CallGrammar(form, tools, self.dialect.special)
        if tools.must_call:
            return self._behind_thought(grammar.required)
        if asked is not None:
            answer = rule(asked)
            return self._behind_thought(lambda thought: grammar.beside(answer, thought))
        opening = self.dialect.tokens.get(form.openings[0]) if form.openings and not self._is_thinking else None
        if opening is not None and (text := grammar.opened()) is not None:
            return Constraint(ConstraintKind.GRAMMAR, text, after=(opening,))
        return None if grammar.possible() is None else self._behind_thought(lambda thought: grammar.possible() or "")

    def _thought_of(self) -> Constraint | None:
        """What the answer was asked to be, behind a thought that it may begin with, or that the prompt has begun."""
        asked = self.asked.constraint
        if asked is None or asked.after or self.dialect.thoughts is None or self._has_thought:
            return asked
        if self._is_thinking and (end := self._thought_end) is not None:
            return replace(asked, after=(end,), may_end_before=False)
        if asked.kind is ConstraintKind.GRAMMAR:
            return asked
        answer = rule(asked)
        return self._behind_thought(lambda thought: behind_thought(thought, answer))

    def _behind_thought(self, written: Callable[[Thought | None], str]) -> Constraint:
        """A grammar that may begin with a thought, or that begins where the prompt's thought ends."""
        marks = self.dialect.thoughts
        if marks is None or self._has_thought:
            return Constraint(ConstraintKind.GRAMMAR, written(None))
        if self._is_thinking and self._thought_end is not None:
            return Constraint(ConstraintKind.GRAMMAR, written(None), after=(self._thought_end,), may_end_before=False)
        thought = Thought(marks, self.dialect.special, is_begun=self._is_thinking)
        return Constraint(ConstraintKind.GRAMMAR, written(thought))

    @property
    def _thought_end(self) -> int | None:
        """The token that ends a thought; None: several do."""
        return None if self.dialect.thoughts is None else self.dialect.tokens.get(self.dialect.thoughts.closing)

    @property
    def _is_held(self) -> bool:
        """Whether it is held to a form from its beginning on."""
        return self.tools is not None and (self.tools.must_call or self.asked.constraint is not None)

    @property
    def _form(self) -> ToolFormat | None:
        """How calls are written. What must be held to a form gives JSON; a format that has none gives way."""
        if self.tools is None:
            return None
        form = self.dialect.format
        if self._is_held:
            return GENERIC if form is None or form.body in (Body.PYTHON, Body.TAGS) else form
        return form

    @property
    def _is_thinking(self) -> bool:
        """Whether the prompt has begun a thought."""
        marks = self.dialect.thoughts
        return marks is not None and self.begun.rstrip().endswith(marks.opening)

    @property
    def _has_thought(self) -> bool:
        """Whether the prompt has written a whole thought, so that the answer needs none."""
        marks = self.dialect.thoughts
        return marks is not None and self.begun.rstrip().endswith(marks.closing)

    def _calls(self) -> Calls | None:
        if self.tools is None:
            return None
        own, form = self.dialect.format, self._form
        known = self.tools.names() if form is not None and form.is_bare else None
        types = {one.name: one.parameters.get("properties", {}) for one in self.tools.functions}
        return Calls(partial(new_call_id, own.num_id_chars if own else None), known, types, self.tools.parallel)

    def _shown(self) -> tuple[int, ...]:
        """The tokens without a text of their own that the answer is read by."""
        marks, form, thoughts = "", self._form, self.dialect.thoughts
        if self.dialect.response_template is not None:
            return tuple(self.dialect.special.values())
        if form is not None:
            marks += form.marks
        if thoughts is not None:
            marks += thoughts.opening + thoughts.closing
        return tuple(token for mark, token in self.dialect.special.items() if mark in marks)
