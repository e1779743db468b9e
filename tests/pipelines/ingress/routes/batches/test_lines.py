"""What a batch's input may be, line by line."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingress.routes.batches.lines import MAX_ERRORS, read_lines

CHAT = "/v1/chat/completions"


def line(custom_id: Any = "a", **fields: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"x": 1}} | fields).encode()


def faults(*lines: bytes, max_lines: int = 10) -> list[tuple[str, int | None, str | None]]:
    read, found = read_lines(b"\n".join(lines), CHAT, max_lines=max_lines)
    assert read == [] or not found
    return [(fault.code, fault.number, fault.param) for fault in found]


def test_lines_are_read_in_order_and_empty_ones_are_none() -> None:
    read, found = read_lines(b"\n" + line("a") + b"\r\n\n" + line("b", body={"y": "\u2028"}) + b"\n", CHAT, max_lines=10)
    assert not found
    assert [(one.number, one.custom_id, json.loads(one.body)) for one in read] == [
        (2, "a", {"x": 1}),
        (4, "b", {"y": "\u2028"}),
    ]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (b"{", ("invalid_json_line", 1, None)),
        (b"[1]", ("invalid_json_line", 1, None)),
        (b"[" * 100_000, ("invalid_json_line", 1, None)),
        (line(None), ("missing_required_parameter", 1, "custom_id")),
        (line(""), ("missing_required_parameter", 1, "custom_id")),
        (line("x" * 513), ("missing_required_parameter", 1, "custom_id")),
        (line(method="GET"), ("invalid_method", 1, "method")),
        (line(url="/v1/embeddings"), ("mismatched_url", 1, "url")),
        (line(body=None), ("missing_required_parameter", 1, "body")),
        (line(body={"stream": True}), ("invalid_body", 1, "body.stream")),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_number(bad: bytes, expected: tuple[str, int, str | None]) -> None:
    assert faults(bad) == [expected]


def test_no_two_lines_have_one_id() -> None:
    assert faults(line("a"), line("b"), line("a")) == [("duplicate_custom_id", 3, "custom_id")]


def test_a_file_without_a_request_and_one_with_too_many_are_told_as_such() -> None:
    assert faults(b"  ", b"") == [("empty_file", None, None)]
    assert faults(*(line(str(at)) for at in range(11))) == [("too_many_requests", None, None)]


def test_so_many_faults_are_told_and_no_more() -> None:
    assert len(faults(*[b"{"] * 1000)) == MAX_ERRORS


@given(st.binary(max_size=200))
def test_whatever_it_holds_something_is_told(content: bytes) -> None:
    read, found = read_lines(content, CHAT, max_lines=10)
    assert bool(read) != bool(found)
