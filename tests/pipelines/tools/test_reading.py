"""An answer's events, from those of the LLM: tokens are counted once, log probabilities kept, and the end says whether it called."""

import pytest

from pipelines.tools.events import AnswerEvent, ReasoningDelta, ToolCallBegun
from pipelines.tools.reading import AnswerReader, new_call_id
from stages.llm.messages import GenerationEnd, TokenDelta, TokenLogprob
from tests.pipelines.tools.answers import parser, understood

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def logprob(number: int) -> TokenLogprob:
    return TokenLogprob(number, str(number), b"", -1.0)


def read(text: str, reason: str = "stop", *, thinks: bool = False, form: str | None = "hermes") -> list[AnswerEvent]:
    """`text`, a letter a token, with a log probability each."""
    reader = AnswerReader(parser(form, thinks=thinks))
    deltas = [TokenDelta(letter, 1, (logprob(place),)) for place, letter in enumerate(text)]
    return [event for delta in deltas for event in reader.read([delta])] + reader.read([GenerationEnd(reason, len(text))])


@pytest.mark.parametrize("text", ["hello", f"a {CALL} b", f"<think>hm</think>x{CALL}", "<tool_call>no"])
def test_every_token_is_counted_once_and_its_log_probability_kept(text: str) -> None:
    events = read(text, thinks=True)
    counted = [event.num_tokens for event in events if isinstance(event, TokenDelta | ReasoningDelta)]
    kept = [one.token_id for event in events if isinstance(event, TokenDelta) for one in event.logprobs]
    assert sum(counted) == len(text)
    assert kept == list(range(len(text)))


def test_a_thoughts_tokens_are_counted_with_it() -> None:
    thought = [event for event in read("<think>hm</think>yes", thinks=True) if isinstance(event, ReasoningDelta)]
    assert sum(event.num_tokens for event in thought) == 2


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        (CALL, "stop", "tool_calls"),
        ("no call", "stop", "stop"),
        (CALL, "length", "length"),
        ("<tool_call>no call", "stop", "stop"),
    ],
)
def test_the_end_says_whether_the_answer_called(text: str, reason: str, told: str) -> None:
    *_, last = read(text, reason)
    assert last == GenerationEnd(told, len(text))


def test_what_was_held_back_comes_before_the_end() -> None:
    *rest, last = read("<tool_ca")
    assert isinstance(last, GenerationEnd)
    assert understood(rest).text == "<tool_ca"


def test_calls_are_told_apart_by_ids_of_the_length_that_a_template_insists_on() -> None:
    assert len({new_call_id() for _ in range(100)}) == 100
    short = new_call_id(9)
    assert (len(short), short.isalnum()) == (9, True)
    assert any(isinstance(event, ToolCallBegun) for event in read(CALL))
