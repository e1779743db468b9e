"""An answer's events as what its client is left with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from pipelines.tools.answer import AnswerParser, Expected
from pipelines.tools.calls import Calls
from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolArgumentsDelta, ToolCallBegun
from pipelines.tools.formats import BY_NAME, THOUGHT_MARKS
from stages.llm.messages import TokenDelta

THINK = THOUGHT_MARKS[0]


@dataclass
class Understood:
    """`calls`: (name, arguments) in order."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


def understood(events: Iterable[AnswerEvent]) -> Understood:
    found = Understood()
    for event in events:
        match event:
            case TokenDelta():
                found.text += event.text
            case ReasoningDelta():
                found.thought += event.text
            case ToolCallBegun():
                assert event.index == len(found.calls)
                found.calls.append((event.name, ""))
            case ToolArgumentsDelta():
                name, arguments = found.calls[event.index]
                found.calls[event.index] = (name, arguments + event.text)
            case _:
                raise AssertionError(event)
    return found


def parser(
    form: str | None,
    *,
    known: Sequence[str] | None = None,
    thinks: bool = False,
    is_thinking: bool = False,
    parallel: bool = True,
) -> AnswerParser:
    ids = map(str, count())
    calls = None if form is None else Calls(lambda: next(ids), known, may_go_on=parallel)
    marks = THINK if thinks or is_thinking else None
    return AnswerParser(Expected(marks, is_thinking, None if form is None else BY_NAME[form], calls))


def read(text: str, form: str | None, pieces: int | Sequence[str] = 1, **how: object) -> Understood:
    """`pieces`: how many characters come at a time, or the pieces themselves."""
    if isinstance(pieces, int):
        pieces = [text[at : at + pieces] for at in range(0, len(text), pieces)]
    reader = parser(form, **how)  # type: ignore[arg-type]
    events = [event for piece in pieces for event in reader.feed(piece)]
    return understood([*events, *reader.end()])
