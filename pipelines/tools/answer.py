"""From an answer's text to what it thinks, says and calls, while it comes.

Decides what of the text belongs to which: thoughts only at the beginning, calls behind their marks (or, of families that use none, where
the answer begins with one). Half a mark is never told as text; what turned out to be no call is. Knows no tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.tools.calls import Calls, read_calls
from pipelines.tools.events import AnswerEvent, ReasoningDelta
from pipelines.tools.formats import ThoughtMarks, ToolFormat
from pipelines.tools.unread import Reading, Unread, told_until
from stages.llm.messages import TokenDelta


@dataclass(frozen=True, slots=True)
class Expected:
    """What an answer may hold besides text. `is_thinking`: the prompt has begun a thought already. `calls` None: none are looked for."""

    thoughts: ThoughtMarks | None = None
    is_thinking: bool = False
    format: ToolFormat | None = None
    calls: Calls | None = None


class AnswerParser:
    """Of one answer."""

    def __init__(self, expected: Expected) -> None:
        self._source = Unread()
        self._events = _answer(self._source, expected)
        self._calls = expected.calls

    @property
    def has_called(self) -> bool:
        return self._calls is not None and self._calls.num > 0

    def feed(self, text: str) -> Sequence[AnswerEvent]:
        self._source.add(text)
        return self._ready()

    def end(self) -> Sequence[AnswerEvent]:
        """What was held back, when no more text comes."""
        self._source.ended = True
        return self._ready()

    def _ready(self) -> Sequence[AnswerEvent]:
        ready: list[AnswerEvent] = []
        for event in self._events:
            if event is None:
                break
            ready.append(event)
        return ready


def said(text: str) -> TokenDelta:
    return TokenDelta(text, 0)


def _answer(source: Unread, expected: Expected) -> Reading[None]:
    has_thought = False
    if expected.thoughts is not None:
        has_thought = yield from _thought(source, expected.thoughts, expected.is_thinking)
    if expected.format is None or expected.calls is None:
        yield from told_until(source, (), said, trim=has_thought)
        return
    yield from _with_calls(source, expected.format, expected.calls, trim=has_thought)


def _thought(source: Unread, marks: ThoughtMarks, is_thinking: bool) -> Reading[bool]:
    at = yield from source.past_space()
    if (yield from source.starts(marks.opening, at)):
        source.take(at + len(marks.opening))
    elif not is_thinking:
        return False
    yield from told_until(source, (marks.closing,), ReasoningDelta, trim=True)
    return True


def _with_calls(source: Unread, form: ToolFormat, calls: Calls, *, trim: bool) -> Reading[None]:
    if form.is_bare and (yield from _bare(source, form, calls)):
        trim = True
    while True:
        found = yield from told_until(source, form.openings, said, trim=trim)
        if found is None:
            return
        trim = yield from _calls_behind(source, form, calls)
        if not trim:
            yield said(found.space + found.marker)


def _calls_behind(source: Unread, form: ToolFormat, calls: Calls) -> Reading[bool]:
    """Behind an opening; some families have one for all calls, and one for each."""
    inner = yield from _past_any(source, form.openings)
    if not (yield from read_calls(source, calls, form.named)):
        if inner:
            source.rest = inner + source.rest
        return False
    while (yield from _past_any(source, form.closings)):
        pass
    return True


def _bare(source: Unread, form: ToolFormat, calls: Calls) -> Reading[bool]:
    """Calls that are all of the answer: only of functions that there are, since any object may have a name."""
    at = yield from source.past_space()
    if not (yield from source.has(at)) or source.rest[at] not in "[{":
        return False
    found = False
    while (yield from read_calls(source, calls, form.named)):
        found = True
        at = yield from source.past_space()
        if not (yield from source.has(at)) or source.rest[at] not in ";,":
            break
        source.take(at + 1)
    return found


def _past_any(source: Unread, marks: Sequence[str]) -> Reading[str]:
    """The mark that the text begins with, and the white space before it; "": none, and nothing is taken."""
    if not marks:
        return ""
    at = yield from source.past_space()
    found = yield from source.starts_any(marks, at)
    return source.take(at + len(found)) if found is not None else ""
