"""Marks that are put in order beforehand change no normal form, and leave nothing to sort."""

import sys
from typing import Literal
from unicodedata import combining, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.text.combining_marks import _STARTING_WITH_MARKS, LONG_RUN, in_canonical_order
from tests.stages.text.hostile import MOST_TIMES_PLAIN, UNITS, times_plain

MARKS = "\u0301\u0323\u0345\u0f73\u0f71\u05b0\u0344\u093c\u3099"


@given(st.lists(st.sampled_from(["a", "e\u0301", "é", "\u1e69", "東", *(mark * (LONG_RUN // 2) for mark in MARKS), *MARKS])))
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_texts_normal_forms_stay_the_same(form: Literal["NFC", "NFD", "NFKC", "NFKD"], pieces: list[str]) -> None:
    text = "".join(pieces)
    assert normalize(form, in_canonical_order(text)) == normalize(form, text)


@given(st.text())
def test_an_ordinary_text_stays_as_it_is(text: str) -> None:
    assert in_canonical_order(text) == text


def test_every_character_that_decomposes_into_marks_alone_is_known() -> None:
    every = map(chr, range(sys.maxunicode + 1))
    found = {one for one in every if not combining(one) and combining(normalize("NFD", one)[0])}
    assert found == _STARTING_WITH_MARKS


@pytest.mark.parametrize("name", ["marks", "marks out of order", "marks of one character", "letters with many marks"])
def test_normalizing_takes_no_longer_for_what_stands_in_a_run(name: str) -> None:
    assert times_plain(lambda text: normalize("NFC", in_canonical_order(text)), UNITS[name], 30_000) < MOST_TIMES_PLAIN
