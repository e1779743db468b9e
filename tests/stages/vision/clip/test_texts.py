"""Texts read as open_clip reads them: the same tokens, whatever the text, in time that grows with its length."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.texts import ClipTexts, Layout
from tests.stages.text.hostile import MOST_TIMES_PLAIN, PLAIN, UNITS, repeated, times_plain, units

pytestmark = pytest.mark.models

WHOLE = 100_000  # a context that holds all of them


def own_merges(**arguments: Any) -> Any:
    ensure_torchvision()
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(**arguments)


def of_transformers(**arguments: Any) -> Any:
    """The demo's, whose folder holds a tokenizer of transformers."""
    ensure_torchvision()
    from open_clip.tokenizer import HFTokenizer

    return HFTokenizer(str(Path("demo/weights/clip").resolve()), context_length=77, **arguments)


KINDS: dict[str, Callable[..., Any]] = {"own merges": own_merges, "of transformers": of_transformers}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def library(kind: str) -> Any:
    return KINDS[kind]()


@pytest.fixture(scope="module")
def texts(kind: str) -> ClipTexts:
    return ClipTexts.of(KINDS[kind](), 77)


@pytest.fixture(scope="module")
def whole(kind: str) -> ClipTexts:
    return ClipTexts.of(KINDS[kind](), WHOLE)


odd = st.sampled_from(
    [
        "'s",
        "'\u017f",
        "\u0130",
        "\u017f",
        "\u212a",
        "<start_of_text>",
        "<|endoftext|>",
        "&amp;",
        "&#39;",
        "&lt;",
        "\n",
        "\r",
        "\u2028",
    ]
)
ordinary = st.text(st.characters(max_codepoint=0x24F), max_size=8)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(odd | ordinary | anything | units, max_size=6).map("".join))
@example("")
@example("A photo of 3 größere Sterne &amp; it's\n\n\ta caf\u0065\u0301.")
def test_tokens_are_open_clips_own(library: Any, texts: ClipTexts, text: str) -> None:
    try:
        ids, num_tokens = texts.tokenize(text)
    except InvalidRequest:
        assert num_library_tokens(library, text) > 77
        return
    assert ids.tolist() == library([text], context_length=77)[0].tolist()
    assert num_tokens == num_library_tokens(library, text) <= 77


def num_library_tokens(library: Any, text: str) -> int:
    if hasattr(library, "tokenizer"):
        return len(library.tokenizer(library.clean_fn(text)).input_ids)
    return len(library.encode(text)) + 2


def test_tokens_of_this_projects_own_words_are_open_clips_own() -> None:
    library, whole = own_merges(), ClipTexts.of(own_merges(), WHOLE)
    lines = [
        line
        for name in ("README.md", "ARCHITECTURE.md", "stages/text/text_tokenizer.py")
        for line in Path(name).read_text().split("\n")
    ]
    for line in lines:
        ids, num_tokens = whole.tokenize(line)
        assert ids[1 : num_tokens - 1].tolist() == library.encode(line)


def read_whole(whole: ClipTexts) -> Callable[[str], object]:
    return lambda text: whole._read(text, most=WHOLE)


@pytest.mark.parametrize("name", UNITS)
def test_no_text_takes_much_longer_than_a_plain_one(whole: ClipTexts, name: str) -> None:
    assert times_plain(read_whole(whole), UNITS[name], 40_000) < MOST_TIMES_PLAIN


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(unit=units)
def test_no_text_made_up_takes_much_longer_than_a_plain_one(whole: ClipTexts, unit: str) -> None:
    assert times_plain(read_whole(whole), unit, 8_000) < MOST_TIMES_PLAIN


@pytest.mark.parametrize("name", [name for name, unit in UNITS.items() if unit.strip(" \t\r\n")])
def test_a_text_that_is_too_long_is_refused_with_its_field(texts: ClipTexts, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"this model reads at most 77 tokens|reference") as caught:
        texts.tokenize(repeated(UNITS[name], 200_000) + PLAIN * 10)
    assert caught.value.param == "text"


def test_white_space_is_nothing_however_much(texts: ClipTexts) -> None:
    ids, num_tokens = texts.tokenize("\n" * 60_000 + "a red  circle" + " " * 60_000 + "\r\n" * 40_000)
    assert num_tokens == 5
    assert ids.tolist() == texts.tokenize("a red circle")[0].tolist()


def test_a_character_by_a_number_of_too_many_digits_is_the_texts_fault(whole: ClipTexts) -> None:
    with pytest.raises(InvalidRequest, match="reference") as caught:
        whole.tokenize("&#" + "9" * 5_000 + ";")
    assert caught.value.param == "text"


def test_texts_may_be_read_on_several_threads_at_once(texts: ClipTexts) -> None:
    given = ["a red circle " * (1 + index % 20) for index in range(400)]
    with ThreadPoolExecutor(4) as threads:
        found = [ids.tolist() for ids, _ in threads.map(texts.tokenize, given)]
    assert found == [texts.tokenize(text)[0].tolist() for text in given]


@pytest.mark.parametrize("reduction", ["simple", "random", "shuffle"])
def test_how_a_text_would_be_cut_does_not_matter_since_none_is(reduction: str) -> None:
    tokenizer = own_merges(reduction_mask=reduction)
    assert ClipTexts.of(tokenizer, 77).tokenize("a red circle")[0].tolist() == tokenizer(["a red circle"])[0].tolist()


def test_words_put_into_another_order_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="syntax"):
        ClipTexts.of(own_merges(reduction_mask="syntax"), 77)
    with pytest.raises(ConfigurationError, match="object"):
        ClipTexts.of(object(), 77)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("text", ["A *Photo* of it's\n\n(3) STARS", "---\n---", "Caf\u0065\u0301 &AMP; &amp;amp;"])
def test_texts_are_cleaned_as_the_model_has_it(clean: str, text: str) -> None:
    library = own_merges(clean=clean)
    assert ClipTexts.of(own_merges(clean=clean), 77).tokenize(text)[0].tolist() == library([text])[0].tolist()


def test_a_mark_that_the_model_was_trained_without_is_zero() -> None:
    library = of_transformers(strip_sep_token=True)
    library.tokenizer.sep_token = "circle</w>"
    expected = library(["a red circle"])[0].tolist()
    assert 0 in expected
    assert ClipTexts.of(library, 77).tokenize("a red circle")[0].tolist() == expected


def test_marks_and_padding_stand_where_the_model_has_them() -> None:
    ids = [5, 6]
    assert Layout([1], [2], padding=0).place(ids, 6).tolist() == [1, 5, 6, 2, 0, 0]
    assert Layout([1], [2], padding=0, last=[9]).place(ids, 6).tolist() == [1, 5, 6, 2, 0, 9]
    assert Layout([1], [2], padding=0, pads_left=True).place(ids, 6).tolist() == [0, 0, 1, 5, 6, 2]
    assert Layout([], [2], padding=1, zeroed=6).place(ids, 4).tolist() == [5, 0, 2, 1]


def test_a_model_that_wants_another_mark_at_the_end_has_it() -> None:
    def clips() -> Any:
        library = of_transformers(tokenizer_mode="clips")
        library.tokenizer.cls_token = "a</w>"
        return library

    assert ClipTexts.of(clips(), 77).tokenize("a red circle")[0].tolist() == clips()(["a red circle"])[0].tolist()
