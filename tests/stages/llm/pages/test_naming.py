"""A page's name stands for everything that decides its keys and values."""

from dataclasses import dataclass
from typing import Any

import pytest

from stages.llm.pages.naming import PageNaming

TOKENS = list(range(100, 110))


@dataclass(frozen=True, slots=True)
class Image:
    offset: int
    length: int
    name: str


def chain(
    naming: PageNaming = PageNaming(4), salt: str = "s", tokens: list[int] = TOKENS, images: tuple[Image, ...] = ()
) -> list[str]:
    found: list[str] = []
    naming.extend(found, salt, tokens, images)
    return found


def test_a_chain_has_the_empty_beginning_and_every_full_page() -> None:
    assert len(chain()) == 3
    assert len({*chain()}) == 3
    assert chain(tokens=TOKENS[:3]) == chain()[:1]
    assert chain(tokens=TOKENS[:8]) == chain()


@pytest.mark.parametrize(
    "other",
    [
        {"salt": "t"},
        {"naming": PageNaming(5)},
        {"naming": PageNaming(4, "int8")},
        {"naming": PageNaming(4, three_positions=True)},
    ],
    ids=str,
)
def test_the_salt_the_page_and_its_form_are_in_every_name(other: dict[str, Any]) -> None:
    assert not {*chain()} & {*chain(**other)}


def test_what_comes_later_changes_no_name_before_it() -> None:
    changed = [*TOKENS[:5], 7, *TOKENS[6:]]
    assert [ours == theirs for ours, theirs in zip(chain(), chain(tokens=changed), strict=True)] == [True, True, False]


@pytest.mark.parametrize("other", [Image(5, 2, "dog"), Image(4, 2, "cat"), Image(5, 3, "cat")], ids=str)
def test_an_image_is_in_the_page_in_which_it_begins_with_its_place_and_length(other: Image) -> None:
    with_cat, with_other = chain(images=(Image(5, 2, "cat"),)), chain(images=(other,))
    assert with_cat[:2] == with_other[:2] == chain()[:2]
    assert len({with_cat[2], with_other[2], chain()[2]}) == 3


@pytest.mark.parametrize("length", range(len(TOKENS)))
def test_a_chain_that_goes_on_is_the_one_that_was_named_whole(length: int) -> None:
    images = (Image(2, 4, "cat"), Image(7, 2, "dog"))
    begun = chain(tokens=TOKENS[:length], images=tuple(image for image in images if image.offset < length))
    PageNaming(4).extend(begun, "s", TOKENS, images)
    assert begun == chain(images=images)
