"""Trace context as callers send it."""

import pytest

from pipelines.telemetry.trace_context import given_in, parsed
from stages.contract.trace import Trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def given(*states: bytes, parent: bytes = PARENT.encode()) -> Trace | None:
    return given_in([(b"traceparent", parent), *((b"tracestate", state) for state in states)])


def test_a_parent_is_read() -> None:
    ids = parsed(PARENT)
    assert ids is not None
    assert (f"{ids.trace_id:032x}", f"{ids.span_id:016x}", ids.flags) == (TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        PARENT.upper(),
        PARENT + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 2 + PARENT[2:],
    ],
)
def test_what_is_none_begins_a_trace_here(parent: str) -> None:
    assert parsed(parent) is None


def test_of_a_version_to_come_the_known_fields_are_read() -> None:
    assert parsed(f"01-{TRACE}-{SPAN}-03-more") == parsed(PARENT)


def test_two_parents_are_none() -> None:
    assert given_in([(b"traceparent", PARENT.encode())] * 2) is None


def test_a_state_goes_on_with_its_trace() -> None:
    assert given(b"theirs=1", b"others=2") == Trace(PARENT, "theirs=1,others=2")


@pytest.mark.parametrize("state", [b"a", b"a=", b"\xe9=1", b"a=1,a=2", b"a=b=c", b"a=1,,b=2", b"a=" + b"x" * 600])
def test_a_state_that_is_none_is_left_out_and_the_trace_goes_on(state: bytes) -> None:
    assert given(state) == Trace(PARENT)
