"""What a stage says reaches a client as it was said: no text ends an event early, or starts one."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from pydantic_core import to_json

from pipelines.ingress.request.sse import DONE, HEARTBEAT, data_frame
from tests.fuzz.effort import effort

TEXT = st.text() | st.lists(
    st.sampled_from(
        [
            "\n",
            "\r",
            "\r\n",
            "\u2028",
            "\u2029",
            "\x85",
            "\x0b",
            "\x0c",
            "\x1c",
            "\0",
            "data: ",
            "event: x",
            ":",
            "[DONE]",
            "a",
        ]
    )
).map("".join)
EVENTS = st.lists(
    st.tuples(st.sampled_from([None, "image_generation.partial_image"]), st.dictionaries(TEXT, TEXT, max_size=3))
)


def pieces_of(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """`data` cut as a network might."""
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def as_the_standard_reads(text: str) -> Iterator[tuple[str | None, str]]:
    """(event, data) of each event, by the rules of the HTML standard (9.2.6): written here anew, to know nothing of ours."""
    event, lines = None, list[str]()
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if lines:
                yield event, "\n".join(lines)
            event, lines = None, []
        elif name == "event":
            event = value
        elif name == "data":
            lines.append(value)


@effort(300)
@given(EVENTS, st.lists(st.integers(0, 40), max_size=20))
@example([(None, {"a": "\u2028data: b\n\nevent: c"})], [1, 1, 1])
def test_every_event_arrives_whole_and_alone(events: list[tuple[str | None, dict[str, str]]], sizes: list[int]) -> None:
    sent = HEARTBEAT.join([b"", *(data_frame(to_json(body), event=name) for name, body in events), DONE])
    expected: list[tuple[str | None, Any]] = [*events, (None, "[DONE]")]
    by_sdk = [(event.event, event.data) for event in SSEDecoder().iter_bytes(pieces_of(sent, sizes))]
    by_standard = list(as_the_standard_reads(sent.decode()))
    by_lines = list(as_the_standard_reads("\n".join([*sent.decode().splitlines(), ""])))  # as `iter_lines` cuts text
    for found in (by_sdk, by_standard, by_lines):
        assert [(name, data if data == "[DONE]" else json.loads(data)) for name, data in found] == expected
