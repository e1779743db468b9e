"""No text of a user forms a control token, and harmless text passes unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prompts.control_tokens import ControlTokens, unused_mark
from stages.contract.errors import InvalidRequest
from tests.stages.text.hostile import MOST_TIMES_PLAIN, effort_s, repeated, times_plain

TOKENS = ["<s>", "</s>", "<|im_end|>", "<|im|>", "<<s>>", "[INST]"]
TEXT = st.lists(st.sampled_from([*TOKENS, "<", "|", ">", "<|im", "_end|>", "s", "/", "a b", "\n"]), max_size=12).map("".join)
MARK = "\U000f0000"


@given(TEXT)
def test_no_control_token_is_left_between_the_marks(text: str) -> None:
    broken = ControlTokens(TOKENS).broken(text, MARK)
    assert broken.replace(MARK, "") == text
    assert not any(token in piece for piece in broken.split(MARK) for token in TOKENS)


@given(st.lists(TEXT, max_size=5))
def test_no_control_token_forms_across_texts(texts: list[str]) -> None:
    broken = ControlTokens(TOKENS).broken_apart(texts, MARK)
    assert [text.replace(MARK, "") for text in broken] == texts
    assert not any(token in piece for piece in "".join(broken).split(MARK) for token in TOKENS)


THOUSANDS = [f"<unused{number}>" for number in range(6_000)] + ["\n" * count for count in range(2, 32)] + ["aa", "aaaaaaaa"]


@pytest.mark.parametrize(
    "unit", ["<", "<unused", "<unused59", "<unused5999>", "<unused5999><", "\n", "a", "aab", "<<unused1>>"]
)
def test_no_text_takes_much_longer_than_a_plain_one_with_thousands_of_control_tokens(unit: str) -> None:
    control = ControlTokens(THOUSANDS)
    assert times_plain(lambda text: control.broken(text, MARK), unit, 50_000) < MOST_TIMES_PLAIN


@pytest.mark.parametrize("size", [1, 5])
def test_parts_cost_what_their_text_does_however_many_they_are(size: int) -> None:
    control = ControlTokens(THOUSANDS)

    def broken_apart(text: str) -> list[str]:
        return control.broken_apart([text[at : at + size] for at in range(0, len(text), size)], MARK)

    few, many = (effort_s(broken_apart, repeated("<unused5", count)) for count in (10_000, 320_000))
    assert many < 200 * few  # 32 times as much; its square is 1,024


def test_harmless_text_is_unchanged() -> None:
    assert ControlTokens(TOKENS).broken("a < b and <|im| is no token", MARK) == "a < b and <|im| is no token"


def test_the_mark_occurs_in_no_text() -> None:
    assert unused_mark(["a", MARK + "b"]) == "\U000f0001"
    assert unused_mark([]) == MARK


def test_texts_that_hold_every_mark_are_refused() -> None:
    every = "".join(map(chr, range(0xF0000, 0xFFFFE)))
    assert unused_mark([every[1:]]) == every[0]
    with pytest.raises(InvalidRequest, match="private-use"):
        unused_mark([every[:100], every[100:]])
