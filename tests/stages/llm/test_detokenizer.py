"""Text as it can be shown: whole characters, no stop strings, every token's log probability once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from stages.llm.detokenizer import StopStrings, TextStream, TokenTexts
from stages.stage import TokenLogprob
from tests.stages.llm.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.models

BROKEN = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny_tokenizer().backend_tokenizer


def said(tokenizer: Tokenizer, text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What is shown after each token of `text`, and whether a stop string ended it."""
    stream = TextStream(tokenizer, stops)
    shown = []
    for token in tokenizer.encode(text, add_special_tokens=False).ids:
        now = stream.push(token)
        shown.append(now.text)
        if now.stopped:
            return shown, True
    tail = stream.end()
    return [*shown, tail.text], tail.stopped


@pytest.mark.parametrize("text", ["plain words", "größer, 東京, Москва", "🙂🙃 and 👩‍👩‍👧", " leading and trailing  "])
def test_the_parts_make_the_whole_and_no_part_is_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    shown, stopped = said(tokenizer, text)
    assert "".join(shown) == text
    assert not stopped
    assert all(BROKEN not in part for part in shown)


def test_an_answer_cut_inside_a_character_ends_before_it(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ())
    tokens = tokenizer.encode("ab🙂", add_special_tokens=False).ids[:-1]
    assert "".join(stream.push(token).text for token in tokens) + stream.end().text == "ab"


def test_special_tokens_have_no_text(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ())
    assert stream.push(tokenizer.encode("<|im_start|>").ids[0]).text == ""


def test_bytes_that_are_no_text_break_nothing(tokenizer: Tokenizer) -> None:
    source = random.Random(1)
    for _ in range(50):
        stream = TextStream(tokenizer, ())
        for _ in range(60):
            stream.push(source.randrange(7, 270))
        stream.end()


@given(st.text(alphabet="ab\n#é", max_size=40), st.lists(st.text(alphabet="ab\n#é", min_size=1, max_size=4), max_size=4))
def test_text_ends_before_the_first_stop_string_and_is_complete(text: str, stops: list[str]) -> None:
    machine = StopStrings(tuple(stops))
    shown, stopped = "", False
    for character in text:
        now, stopped = machine.push(character)
        shown += now
        if stopped:
            break
    shown += "" if stopped else machine.flush()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (shown, stopped) == (text, False)
    else:
        # Read one character at a time, the stop string that is complete first counts; of those, the one that began first.
        complete = text[: min(ends)]
        begins = min(complete.find(stop) for stop in stops if stop in complete)
        assert (shown, stopped) == (text[:begins], True)


def test_a_stop_string_across_tokens_is_never_shown(tokenizer: Tokenizer) -> None:
    shown, stopped = said(tokenizer, "the quick brown fox jumps", stops=("n fox ju",))
    assert stopped
    assert "".join(shown) == "the quick brow"


def test_what_might_have_been_a_stop_string_is_shown_when_it_is_not(tokenizer: Tokenizer) -> None:
    shown, stopped = said(tokenizer, "quick brown", stops=("brown fox",))
    assert not stopped
    assert "".join(shown) == "quick brown"


def test_logprobs_come_with_their_text_and_each_once(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ("XY",))
    tokens = tokenizer.encode("abXcXYd", add_special_tokens=False).ids
    texts = TokenTexts(tokenizer)
    released: list[TokenLogprob] = []
    shown = ""
    for token in tokens:
        now = stream.push(token, texts.logprob(token, -1.0))
        shown, released = shown + now.text, [*released, *now.logprobs]
        if now.stopped:
            break
    assert shown == "abXc"
    assert b"".join(logprob.data for logprob in released) == b"abXc"


def test_tokens_know_their_bytes(tokenizer: Tokenizer) -> None:
    texts = TokenTexts(tokenizer)
    for text in ["größer 東京", "a b\nc"]:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        assert b"".join(texts.data(token) for token in tokens) == text.encode()
