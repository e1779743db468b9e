"""Texts of any kind become the library's own ids, in time that grows with their length, and none of them is remembered."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.text.text_tokenizer import Reading, TextTokenizer, read_in_bounds
from tests.stages.llm.tiny_models import tiny_tokenizer
from tests.stages.text.hostile import MOST_TIMES_PLAIN, PLAIN, UNITS, repeated, times_plain, units

pytestmark = pytest.mark.models

"""One character of U+FDFA is 18 in normal form NFKC, and as many tokens."""


def byte_level() -> Tokenizer:
    """As GPT-2's, Llama 3's and Qwen's."""
    return tiny_tokenizer().backend_tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2's and Mistral's: a whole text is one word."""
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,", "▁t", "he", "▁the", "aa", "aaaa", "▁▁"]
    spelled = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocabulary = {token: place for place, token in enumerate(spelled)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "a"), ("aa", "aa"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    return tokenizer


def compatible() -> Tokenizer:
    """Normal form NFKC, which makes texts longer."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


def unigram() -> Tokenizer:
    """As T5's."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz.,")]
    pieces += [("▁the", -2.0), *(("a" * size, -3.0) for size in (2, 4, 8, 16, 32))]
    tokenizer = Tokenizer(models.Unigram(pieces, 2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    return tokenizer


def word_pieces() -> Tokenizer:
    """As BERT's."""
    words = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    found.__name__: found for found in (byte_level, byte_fallback, compatible, unigram, word_pieces)
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def library(kind: str) -> Tokenizer:
    return KINDS[kind]()


@pytest.fixture(scope="module")
def texts(kind: str) -> TextTokenizer:
    return TextTokenizer(KINDS[kind](), param="prompt")


@given(st.lists(st.text(max_size=30) | units, max_size=5))
def test_ids_are_the_librarys_one_texts_behind_the_others(texts: TextTokenizer, library: Tokenizer, given: list[str]) -> None:
    whole = [token for text in given for token in library.encode(text, add_special_tokens=False).ids]
    assert texts.read(*given) == Reading(whole)


@given(st.text(max_size=30))
def test_the_marks_about_a_text_are_the_librarys(texts: TextTokenizer, library: Tokenizer, text: str) -> None:
    assert [*texts.begin, *texts.read(text).ids, *texts.end] == library.encode(text).ids


@pytest.mark.parametrize("name", UNITS)
def test_no_text_takes_much_longer_than_a_plain_one(texts: TextTokenizer, name: str) -> None:
    assert times_plain(texts.read, UNITS[name], 20_000) < MOST_TIMES_PLAIN


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(unit=units)
def test_no_text_made_up_takes_much_longer_than_a_plain_one(texts: TextTokenizer, unit: str) -> None:
    assert times_plain(texts.read, unit, 8_000) < MOST_TIMES_PLAIN


def test_thousands_of_texts_cost_what_one_of_their_length_does(texts: TextTokenizer) -> None:
    assert times_plain(lambda text: texts.read(*text), "x", 20_000) < MOST_TIMES_PLAIN


@pytest.fixture(scope="module")
def bounded(kind: str) -> TextTokenizer:
    return TextTokenizer(KINDS[kind](), param="prompt", max_tokens=MOST)


MOST = 5


@given(text=st.text(max_size=60) | units.map(lambda unit: repeated(unit, 2_000)))
def test_what_fits_is_read_whole_and_of_what_does_not_enough(bounded: TextTokenizer, library: Tokenizer, text: str) -> None:
    whole = library.encode(text, add_special_tokens=False).ids
    reading = bounded.read(text)
    assert (len(reading.ids) > MOST) == (len(whole) > MOST)
    # Where it was cut, the last word is another one, and marks that normal forms sort may be.
    assert reading.ids == whole if reading.is_whole else reading.ids[:MOST] == whole[:MOST]


class Counted:
    """A reader of words that remembers how much it was given."""

    def __init__(self) -> None:
        self.num_chars = 0

    def __call__(self, text: str) -> Reading:
        self.num_chars += len(text)
        return Reading(list(range(len(text.split()))))


def test_a_text_that_is_far_too_long_shows_it_in_its_first_block() -> None:
    read = Counted()
    reading = read_in_bounds(repeated(PLAIN, 200_000), 500, read)
    assert not reading.is_whole
    assert reading.told.startswith("more than 1")
    assert read.num_chars == 16 * 500


def test_spaces_before_a_long_text_do_not_have_it_read_whole() -> None:
    read = Counted()
    assert not read_in_bounds(" " * 50_000 + repeated(PLAIN, 150_000), 500, read).is_whole
    assert read.num_chars < 130_000


def test_what_is_read_of_a_text_that_is_far_too_long_is_its_beginning(kind: str, library: Tokenizer) -> None:
    """Also where another block than the first shows it: some encoders read a prompt cut."""
    texts = TextTokenizer(KINDS[kind](), param="prompt", max_tokens=75)
    for beginning in (repeated("aaaaaaaaaaaaaaaa ", 1_200), repeated("the" + " " * 9, 1_200), "the" + " " * 1_197):
        text = beginning + "z.y,x." * 900
        reading = texts.read(text)
        assert not reading.is_whole
        assert reading.ids[:75] == library.encode(text, add_special_tokens=False).ids[:75]


def test_a_short_text_among_many_spaces_fits() -> None:
    read = Counted()
    assert read_in_bounds(" " * 100_000 + "a red circle" + " " * 99_000, 500, read) == Reading([0, 1, 2])


def test_a_refusal_tells_how_many_tokens_there_are_as_far_as_they_are_counted() -> None:
    texts = TextTokenizer(byte_level(), param="prompt", max_tokens=10)
    assert [texts.read("7 " * count).told for count in (1, 11, 517, 518)] == ["2", "22", "1034", "more than 1035"]
    assert texts.read(*["7"] * 3_000).told == "more than 2048"


def test_words_are_not_remembered() -> None:
    """By default they are: 10,000 of up to 255 bytes in each thread, which takes 8 KB each."""
    texts, rng = TextTokenizer(byte_level(), param="prompt"), random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=250)) for _ in range(8_000)]
    texts.read(*words[:4_000])
    before = _resident_bytes()
    texts.read(*words[4_000:])
    assert _resident_bytes() - before < 15 * 2**20


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_text_that_the_tokenizer_fails_on_is_the_requests_fault() -> None:
    stumbling = Tokenizer(models.WordLevel({"a": 0, "x": 1, "[UNK]": 2}, unk_token="[UNK]"))
    stumbling.pre_tokenizer = pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated")
    texts = TextTokenizer(stumbling, param="prompt")
    for text in ("x" * 60, "\ud800"):
        with pytest.raises(InvalidRequest, match="cannot read") as caught:
            texts.read(text)
        assert caught.value.param == "prompt"


def test_a_tokenizer_without_a_fast_form_is_refused() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(ConfigurationError, match="ByT5Tokenizer has no fast form"):
        TextTokenizer.of(ByT5Tokenizer(), param="prompt")


def test_marks_within_a_text_are_refused() -> None:
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing("$A <|endoftext|> $A", None, [("<|endoftext|>", 0)])
    with pytest.raises(ConfigurationError, match="marks"):
        TextTokenizer(tokenizer, param="prompt")
