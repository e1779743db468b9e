"""data: URLs as clients really write them, and what nobody could read."""

import base64
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingress.images import data_url
from pipelines.ingress.images.data_url import NoDataUrl, TooLong, from_data_url

HEADS = [
    "data:image/png;base64,",
    "data:image/jpg;base64,",
    "data: image/jpeg; charset=utf-8; base64, ",
    "data:image/svg+xml;name=cat.png;base64,",
    "DATA:IMAGE/PNG;BASE64,",
    "data:application/octet-stream;base64,",
    "data:;base64,",
    "data:image/png;\r\nbase64,\r\n",
]


def lines(text: str, end: str) -> str:
    return end.join(text[start : start + 76] for start in range(0, len(text), 76)) + end


WAYS: dict[str, Callable[[bytes], str]] = {
    "plainly": lambda data: base64.b64encode(data).decode(),
    "in the alphabet of URLs": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "in lines": lambda data: lines(base64.b64encode(data).decode(), "\n"),
    "in lines of mail": lambda data: lines(base64.b64encode(data).decode(), "\r\n "),
    "with escapes": lambda data: quote(base64.b64encode(data).decode(), safe=""),
    "all in escapes": lambda data: "".join(f"%{byte:02x}" for byte in base64.b64encode(data)),
    "in lines of escapes": lambda data: lines(base64.b64encode(data).decode(), "%0A"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("way", WAYS)
def test_the_bytes_are_those_that_were_written_in_every_way(head: str, way: str) -> None:
    for size in (0, 1, 2, 3, 4, 100, 1000):
        data = bytes((7 * index + size) % 256 for index in range(size))
        assert from_data_url(head + WAYS[way](data), max_bytes=1000) == data


@given(st.binary(max_size=200), st.sampled_from(sorted(WAYS)), st.integers(min_value=1, max_value=9))
def test_where_it_is_cut_into_pieces_changes_nothing(data: bytes, way: str, piece: int) -> None:
    before, data_url._PIECE = data_url._PIECE, piece + 2
    try:
        assert from_data_url("data:image/png;base64," + WAYS[way](data), max_bytes=1000) == data
    finally:
        data_url._PIECE = before


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        "data:image/png;base64",
        "data:image/png,AAAA",
        "data:text/html;base64,AAAA",
        "data:image/png;base64;base64,AAAA",
        "data:image/png;x=" + "y" * 300 + ";base64,AAAA",
    ],
)
def test_what_is_no_base64_image_is_told_which_form_is_one(url: str) -> None:
    with pytest.raises(NoDataUrl, match="data:image/<type>;base64,<bytes>"):
        from_data_url(url, max_bytes=1000)


@pytest.mark.timeout(60)  # what is tried in every way takes ages
@pytest.mark.parametrize("part", [" ;", " ; ", "; ", " ", ";", ";;", " ;base6", ";base64 ", "image/", "\r\n;a="])
@pytest.mark.parametrize("start", ["data:", "data:image/png", "data:application/octet-stream "])
def test_a_head_of_parts_that_could_be_read_in_many_ways_is_read_in_one(start: str, part: str) -> None:
    head = (start + part * data_url.MAX_HEAD_CHARS)[: data_url.MAX_HEAD_CHARS - 2]
    with pytest.raises(NoDataUrl):
        from_data_url(head + "x,AAAA", max_bytes=1000)


@pytest.mark.parametrize("text", ["A", "AAAAA", "AA=A", "AA==AAAA", "AAAA=AAA", "A!AA", "é", "AAAA\u2028", "%zz%zz"])
def test_base64_that_nobody_could_read_is_refused(text: str) -> None:
    with pytest.raises(NoDataUrl, match="is not valid base64"):
        from_data_url(f"data:image/png;base64,{text}", max_bytes=1000)


def test_more_than_allowed_is_refused_before_it_is_decoded_where_it_is_far_more() -> None:
    with pytest.raises(TooLong):
        from_data_url("data:image/png;base64," + "!" * 10_000, max_bytes=1000)
    with pytest.raises(TooLong):
        from_data_url("data:image/png;base64," + "A" * 2000, max_bytes=1000)
    assert len(from_data_url("data:image/png;base64," + "A" * 2000, max_bytes=1500)) == 1500
