"""Names: equal when everything that made the result is equal, and only then."""

import math
import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cache import keys
from cache.keys import Field, digest, name, page_names

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
fields: st.SearchStrategy[Field] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)
token_ids = st.lists(st.integers(0, 2**31), max_size=40)


def canonical(value: object) -> object:
    """The identity a field must have, told in another way than by its encoding."""
    if isinstance(value, dict):
        return ("map", frozenset((key, canonical(entry)) for key, entry in value.items()))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(canonical(entry) for entry in value))
    return (type(value).__name__, value)


@given(fields, fields)
def test_two_fields_share_a_name_exactly_when_they_are_equal(left: Field, right: Field) -> None:
    assert (name("kind", field=left) == name("kind", field=right)) == (canonical(left) == canonical(right))


@given(st.dictionaries(st.sampled_from("abcde"), fields, min_size=2))
def test_the_order_of_fields_is_irrelevant(values: dict[str, Field]) -> None:
    backwards = dict(reversed(list(values.items())))
    assert name("kind", **values) == name("kind", **backwards)
    assert name("kind", inner=values) == name("kind", inner=backwards)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["ab", "c"], ["a", "bc"]),
        (["ab", "c"], ["abc"]),
        ([["a"], "b"], [["a", "b"]]),
        (1, True),
        (1, "1"),
        (1, 1.0),
        (0, False),
        (0, None),
        (0, ""),
        ("", b""),
        ("a", b"a"),
        ([], {}),
        ([], None),
        ([1, 2], [2, 1]),
        (127, -129),
        (255, -1),
        ({"a": "b"}, ["a", "b"]),
        ("a\x00b", "a"),
        (math.inf, -math.inf),
        ("\ud800", "?"),
    ],
)
def test_what_looks_alike_is_told_apart(left: Field, right: Field) -> None:
    assert name("kind", field=left) != name("kind", field=right)


def test_a_field_that_is_none_is_not_a_field_that_is_missing() -> None:
    assert name("kind", a=None) != name("kind")


def test_a_value_under_another_field_has_another_name() -> None:
    assert name("kind", a=1, b=2) != name("kind", a=2, b=1)


def test_the_kind_is_in_the_name_and_may_be_a_field_too() -> None:
    assert len({name("a"), name("b"), name("a", kind="b"), name("b", kind="a")}) == 4


def test_the_schema_version_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = name("kind", a=1)
    monkeypatch.setattr(keys, "SCHEMA_VERSION", keys.SCHEMA_VERSION + 1)
    assert name("kind", a=1) != before


def test_names_never_change_between_processes_and_releases() -> None:
    """They lie in a shared store: changing this digest is changing `SCHEMA_VERSION`."""
    made = name("k", a=[1, -2, "x", b"y", None, True, 0.5], b={"c": 10**30})
    assert made == "ecff89bc18ef9f2709de9c3d5a15f1981eb94d085dcf65737ab6bc5299ac7046"


def test_minus_zero_is_zero_because_they_are_equal() -> None:
    assert name("kind", a=-0.0) == name("kind", a=0.0)


def test_lists_and_tuples_mean_the_same() -> None:
    assert name("kind", a=[1, (2, 3)]) == name("kind", a=(1, [2, 3]))


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        name("kind", a=[math.nan])


@pytest.mark.parametrize("value", [object(), np.int64(3), np.zeros(2), {1, 2}, range(3), bytearray(b"a")])
def test_a_value_of_another_type_is_refused_not_guessed(value: object) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        name("kind", a=value)  # type: ignore[arg-type]


def test_a_map_with_keys_that_are_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="int 1"):
        name("kind", a={1: "a"})  # type: ignore[dict-item]


def test_names_and_digests_are_256_bits_in_hex() -> None:
    assert {len(name("kind")), len(digest(b""))} == {64}
    int(name("kind") + digest(b""), 16)


@given(st.binary(), st.binary())
def test_content_shares_a_digest_exactly_when_it_is_equal(left: bytes, right: bytes) -> None:
    assert (digest(left) == digest(right)) == (left == right)
    assert digest(memoryview(left)) == digest(left)


# ---- KV pages ----


@given(token_ids, st.integers(1, 9))
def test_every_full_page_has_a_name_and_a_partial_one_has_none(ids: list[int], page_tokens: int) -> None:
    assert len(page_names("root", ids, page_tokens)) == len(ids) // page_tokens


@given(token_ids, st.integers(1, 9), st.data())
def test_two_prompts_share_pages_exactly_as_far_as_they_agree(ids: list[int], page_tokens: int, data: st.DataObject) -> None:
    assume(ids)
    changed_at = data.draw(st.integers(0, len(ids) - 1))
    other = [*ids[:changed_at], ids[changed_at] + 1, *ids[changed_at + 1 :]]
    agree = [a == b for a, b in zip(page_names("r", ids, page_tokens), page_names("r", other, page_tokens), strict=True)]
    assert agree == [page < changed_at // page_tokens for page in range(len(agree))]


@given(token_ids, st.integers(1, 9), st.data())
def test_an_image_changes_every_page_from_the_one_it_begins_in(ids: list[int], page_tokens: int, data: st.DataObject) -> None:
    assume(ids)
    offset = data.draw(st.integers(0, len(ids) - 1))
    cat, dog = (page_names("root", ids, page_tokens, [(digest(what), offset)]) for what in (b"cat", b"dog"))
    assert [a == b for a, b in zip(cat, dog, strict=True)] == [page < offset // page_tokens for page in range(len(cat))]


@given(token_ids, st.integers(1, 9), st.data())
def test_naming_in_two_pieces_gives_the_same_names_as_naming_whole(
    ids: list[int], page_tokens: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(ids) // page_tokens)) * page_tokens
    offsets = data.draw(st.sets(st.integers(0, len(ids) - 1), max_size=3)) if ids else set()
    images = [(digest(bytes([offset])), offset) for offset in offsets]
    whole = page_names("root", ids, page_tokens, images)
    head = page_names("root", ids[:cut], page_tokens, [image for image in images if image[1] < cut])
    rest = [(image, offset - cut) for image, offset in images if offset >= cut]
    assert head + page_names(head[-1] if head else "root", ids[cut:], page_tokens, rest) == whole


@pytest.mark.parametrize("parent", [name("root"), "root", "é" * 64], ids=["a name", "short", "not ASCII"])
@pytest.mark.parametrize("images", [[], [("cat", 5)]], ids=["no image", "an image"])
def test_a_page_is_named_as_any_result_is(parent: str, images: list[tuple[str, int]]) -> None:
    names = page_names(parent, [*range(-4, 8)], 4, images)
    for number, found in enumerate(names):
        ids = struct.pack("<4q", *range(4 * number - 4, 4 * number))
        begun = [(at - 4 * number, image) for image, at in images if at // 4 == number]
        assert found == name("kv-page", parent=parent, token_ids=ids, images=begun)
        parent = found


def test_the_place_of_an_image_within_a_page_matters() -> None:
    assert page_names("r", [7] * 4, 4, [("cat", 0)]) != page_names("r", [7] * 4, 4, [("cat", 1)])


def test_which_of_two_images_comes_first_matters_but_not_how_they_are_listed() -> None:
    assert page_names("r", [7] * 4, 4, [("a", 0), ("b", 2)]) == page_names("r", [7] * 4, 4, [("b", 2), ("a", 0)])
    assert page_names("r", [7] * 4, 4, [("a", 0), ("b", 2)]) != page_names("r", [7] * 4, 4, [("b", 0), ("a", 2)])


def test_another_parent_gives_other_pages_though_the_tokens_are_equal() -> None:
    ours, theirs = (page_names(name("root", salt=salt), list(range(12)), 4) for salt in ("ours", "theirs"))
    assert set(ours).isdisjoint(theirs)


def test_pages_of_equal_tokens_differ_by_what_is_before_them() -> None:
    names = page_names("root", [5] * 32, 4)
    assert len(set(names)) == 8
    assert all(a != b for a, b in pairwise(names))


@pytest.mark.parametrize("offset", [-1, 8])
def test_an_image_outside_the_prompt_is_a_mistake_that_is_told(offset: int) -> None:
    with pytest.raises(ValueError, match=f"offset {offset} is outside"):
        page_names("root", list(range(8)), 4, [("cat", offset)])


def test_pages_of_no_tokens_are_a_mistake_that_is_told() -> None:
    with pytest.raises(ValueError, match="page_tokens: 0"):
        page_names("root", [1, 2], 0)
