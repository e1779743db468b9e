"""Text as it can be shown: whole characters, no stop strings, every token's log probability once."""

import codecs
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from stages.llm.answers.detokenizer import StopStrings, TextStream, TokenTexts, _byte_level_alphabet
from stages.llm.messages import TokenLogprob
from tests.stages.llm.tiny_models import tiny_tokenizer
from tests.stages.text.hostile import effort_s

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
    return [*shown, stream.end().text], False


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


def test_a_special_token_is_shown_where_that_is_asked_for_and_loses_no_space_behind_it(tokenizer: Tokenizer) -> None:
    (start,) = tokenizer.encode("<|im_start|>").ids
    (end,) = tokenizer.encode("<|im_end|>").ids
    stream = TextStream(tokenizer, (), shown={start})
    tokens = [*tokenizer.encode("a b").ids, start, *tokenizer.encode(" c").ids, end]
    assert "".join(stream.push(token).text for token in tokens) + stream.end().text == "a b<|im_start|> c"


def test_a_character_that_a_shown_token_cuts_is_told_to_be_none(tokenizer: Tokenizer) -> None:
    (start,) = tokenizer.encode("<|im_start|>").ids
    stream = TextStream(tokenizer, (), shown={start})
    half = tokenizer.encode("🙂", add_special_tokens=False).ids[:-1]
    assert "".join(stream.push(token).text for token in [*half, start]) == f"{BROKEN}<|im_start|>"


def test_a_stop_string_is_shown_where_that_is_asked_for() -> None:
    stops = StopStrings(("END", "ENDING"), shows=True)
    assert [stops.push(text) for text in ("the E", "N", "D is")] == [("the ", False), ("", False), ("END", True)]


def test_a_stop_string_before_the_least_length_stops_nothing(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("x x x x x", add_special_tokens=False).ids
    stream = TextStream(tokenizer, ("x",), min_tokens=3)
    shown = [stream.push(token) for token in tokens]
    assert not any(one.stopped for one in shown[:2])
    assert any(one.stopped for one in shown[2:4])


def shown_of(tokenizer: Tokenizer, tokens: list[int], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    """All that is shown of `tokens`, and whether a stop string ended it."""
    stream, text = TextStream(tokenizer, stops), ""
    for token in tokens:
        now = stream.push(token)
        text += now.text
        if now.stopped:
            return text, True
    return text + stream.end().text, False


def without_unfinished_end(data: bytes) -> str:
    """The bytes as text; those that are none as U+FFFD, and those at the end that may still become a character not at all."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@given(st.lists(st.integers(7, 399), max_size=40))
def test_of_any_tokens_the_parts_make_the_whole(tokenizer: Tokenizer, tokens: list[int]) -> None:
    texts = TokenTexts(tokenizer)
    whole = without_unfinished_end(b"".join(map(texts.data, tokens)))
    assert tokenizer.decode(tokens).startswith(whole)
    assert shown_of(tokenizer, tokens) == (whole, False)


@given(st.lists(st.sampled_from(["e282", "ac", "98", "9880f09f", "80", "f0", "9f98", "41", "ff", "efbfbd", "c3", "c3a941e2"])))
def test_tokens_that_end_and_begin_characters_are_shown_as_their_bytes_are(pieces: list[str]) -> None:
    """Also where no token ever ends with a whole character."""
    spelled = {bytes([byte]): character for character, byte in _byte_level_alphabet().items()}
    words = sorted({"".join(spelled[bytes([byte])] for byte in bytes.fromhex(piece)) for piece in pieces})
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="?"))
    tokenizer.decoder = decoders.ByteLevel()
    data = [bytes.fromhex(piece) for piece in pieces]
    stream, shown = TextStream(tokenizer, ()), ""
    for place, one in enumerate(data):
        token = words.index("".join(spelled[bytes([byte])] for byte in one))
        shown += stream.push(token).text
        assert shown == without_unfinished_end(b"".join(data[: place + 1]))


def test_a_replacement_character_that_was_meant_is_shown_at_once(tokenizer: Tokenizer) -> None:
    shown, _ = said(tokenizer, f"a{BROKEN}b{BROKEN}")
    assert "".join(shown) == f"a{BROKEN}b{BROKEN}"
    assert shown[-1] == ""


WORDS = ["▁one", "two", "▁three", "▁", "▁▁", "é", "▁né"]
BYTES = [0x0A, 0x41, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xFF]


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """Words, and a token for every byte, decoded as those of Llama 2, Mistral and Gemma are."""
    spelled = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS]
    vocabulary = {token: place for place, token in enumerate(spelled)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def token_of(tokenizer: Tokenizer, piece: str | int) -> int:
    found = tokenizer.token_to_id(piece if isinstance(piece, str) else f"<0x{piece:02X}>")
    assert found is not None
    return found


def spelled(pieces: list[str | int]) -> str:
    """Words as they are, and of the bytes between them what is text."""
    data = b"".join(bytes([piece]) if isinstance(piece, int) else piece.replace("▁", " ").encode() for piece in pieces)
    text = data.decode(errors="replace")
    return text.removeprefix(" ").replace(BROKEN, "")


pieces_of_any_kind = st.lists(st.sampled_from([*WORDS, *BYTES, "<s>"]), max_size=30)


@given(pieces_of_any_kind)
@example([195, 240, 169, 169, "<s>", 169])
def test_invalid_bytes_are_shown_as_such_and_nothing_else_is_lost_or_shown_twice(
    byte_fallback: Tokenizer, pieces: list[str | int]
) -> None:
    shown, _ = shown_of(byte_fallback, [token_of(byte_fallback, piece) for piece in pieces])
    assert shown.replace(BROKEN, "") == spelled([piece for piece in pieces if piece != "<s>"])


@given(st.lists(st.sampled_from([*WORDS, "<s>", *(bytes.fromhex(one) for one in ("0a", "c3a9", "e282ac", "ff", "efbfbd"))])))
def test_bytes_that_are_no_text_are_shown_as_many_as_they_are(byte_fallback: Tokenizer, pieces: list[str | bytes]) -> None:
    tokens: list[int] = []
    for piece in pieces:
        tokens += [token_of(byte_fallback, one) for one in ([piece] if isinstance(piece, str) else piece)]
    texts = ["" if piece == "<s>" else piece.replace("▁", " ") for piece in pieces if isinstance(piece, str)]
    whole = "".join(texts.pop(0) if isinstance(piece, str) else piece.decode(errors="replace") for piece in pieces)
    shown, _ = shown_of(byte_fallback, tokens)
    assert shown.lstrip(" ") == whole.lstrip(" ")


class Counted:
    """A tokenizer that counts what it decodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.num_decoded, self.longest = tokenizer, 0, 0

    def decode(self, tokens: list[int], **arguments: Any) -> str:
        self.num_decoded += len(tokens)
        self.longest = max(self.longest, len(tokens))
        return self._tokenizer.decode(tokens, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("run", [[0xFF], [0xE2], [0xE2, 0x82], [0xF0, 0x9F, 0x98], [0xFF, 0xC3, 0xA9], ["<unk>"]], ids=str)
@pytest.mark.parametrize("kind", ["byte_fallback", "byte_level"])
def test_a_long_run_of_bytes_that_are_no_text_is_shown_as_it_comes_and_costs_the_same_a_token(
    tokenizer: Tokenizer, byte_fallback: Tokenizer, kind: str, run: list[str | int]
) -> None:
    if kind == "byte_fallback":
        counted, tokens = Counted(byte_fallback), [token_of(byte_fallback, piece) for piece in run]
    else:
        spelled = {byte: character for character, byte in _byte_level_alphabet().items()}
        found = [400 if isinstance(piece, str) else tokenizer.token_to_id(spelled[piece]) for piece in run]
        counted, tokens = Counted(tokenizer), [token for token in found if token is not None]
    assert len(tokens) == len(run)
    stream, num_shown = TextStream(cast(Tokenizer, counted), ()), 0
    for _ in range(300):
        for token in tokens:
            num_shown += len(stream.push(token).text)
    assert counted.longest < 60
    assert counted.num_decoded < 150 * 300 * len(tokens)
    assert num_shown >= (0 if run == ["<unk>"] else 299)


@given(pieces_of_any_kind, st.sampled_from([("\n",), ("two",), ("one\n", "é"), ("A", "€tw")]))
def test_a_stop_string_ends_the_text_before_it_also_among_invalid_bytes(
    byte_fallback: Tokenizer, pieces: list[str | int], stops: tuple[str, ...]
) -> None:
    tokens = [token_of(byte_fallback, piece) for piece in pieces]
    whole, _ = shown_of(byte_fallback, tokens)
    shown, stopped = shown_of(byte_fallback, tokens, stops)
    assert stopped == any(stop in whole for stop in stops)
    assert whole.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped or shown == whole


@given(st.text(alphabet="aé東🙂", max_size=12))
def test_characters_made_of_byte_tokens_are_shown_once_they_are_whole(byte_fallback: Tokenizer, text: str) -> None:
    tokens = [token_of(byte_fallback, byte) for byte in text.encode()]
    stream = TextStream(byte_fallback, ())
    parts = [stream.push(token).text for token in tokens]
    assert [part for part in parts if part] == list(text)
    assert stream.end().text == ""


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


@pytest.mark.parametrize(
    "stop", ["b" + "a" * 1023, "a" * 1023 + "b", "ab" * 512, "a" * 512 + "b" + "a" * 511], ids=lambda stop: stop[:3]
)
def test_a_long_stop_string_costs_a_character_no_more_than_a_short_one(stop: str) -> None:
    def shown(stops: tuple[str, ...]) -> Callable[[str], str]:
        return lambda text: "".join(machine.push(character)[0] for machine in [StopStrings(stops)] for character in text)

    text = "a" * 40_000
    long, short = (effort_s(shown(stops), text) for stops in (("a" * 1024 + "c", stop, stop[::-1] + "c"), ("xy", "zx", "zz")))
    assert long < 100 * short  # its length is 500 times theirs


def test_tokens_without_text_cost_the_same_however_many_they_are(tokenizer: Tokenizer) -> None:
    """Their log probabilities wait for text."""
    texts, token = TokenTexts(tokenizer), token_of(tokenizer, "<|endoftext|>")
    logprob = texts.logprob(token, -1.0)

    def pushed(text: str) -> None:
        stream = TextStream(tokenizer, ())
        for _ in text:
            stream.push(token, logprob)
        assert len(stream.end().logprobs) == len(text)

    few, many = (effort_s(pushed, "x" * count) for count in (1_000, 32_000))
    assert many < 200 * few  # 32 times as many; their square is 1,024


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
