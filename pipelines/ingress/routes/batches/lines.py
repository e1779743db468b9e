"""A batch's input, line by line: what each asks, and what is wrong with it. Pure.

Decides what a line may be: an object of its own, with an id that no other line has, asking the batch's endpoint. What its body says is for
the endpoint to check, when it is its turn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from pipelines.ingress.body.bodies import document_of
from stages.contract.errors import InvalidRequest

MAX_ERRORS = 100  # that are told of one file
MAX_ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class Line:
    """`body`: as JSON."""

    number: int
    custom_id: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """`number`: the line's, from 1; None: the file's."""

    code: str
    message: str
    number: int | None = None
    param: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "line": self.number, "param": self.param}


def read_lines(content: bytes, endpoint: str, *, max_lines: int) -> tuple[Sequence[Line], Sequence[Fault]]:
    """The lines, or what is wrong with them. CPU, off the event loop."""
    lines: list[Line] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, text in enumerate(content.splitlines(), start=1):
        if not text.strip():
            continue
        found = _line(number, text, endpoint, seen)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            lines.append(found)
            seen.add(found.custom_id)
        if len(faults) >= MAX_ERRORS:
            break
        if len(lines) > max_lines:
            return [], [Fault("too_many_requests", f"the file holds over {max_lines} requests (ingress.kept.batch_requests)")]
    if not lines and not faults:
        faults.append(Fault("empty_file", "the file holds no requests"))
    return ([] if faults else lines), faults


def _line(number: int, text: bytes, endpoint: str, seen: set[str]) -> Line | Fault:
    try:
        asked = document_of(text)
    except InvalidRequest as error:
        return Fault("invalid_json_line", f"line {number}: {error.message.removeprefix('the body ')}", number)
    fault = next(_faults(number, asked, endpoint, seen), None)
    return fault or Line(number, asked["custom_id"], to_json(asked["body"]))


def _faults(number: int, asked: dict[str, Any], endpoint: str, seen: set[str]) -> Iterator[Fault]:
    custom_id, body = asked.get("custom_id"), asked.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARS:
        yield Fault("missing_required_parameter", f"line {number}: custom_id must be a text of its own", number, "custom_id")
    elif custom_id in seen:
        yield Fault("duplicate_custom_id", f"line {number}: another line has the same custom_id", number, "custom_id")
    if asked.get("method", "POST") != "POST":
        yield Fault("invalid_method", f"line {number}: method must be POST", number, "method")
    if asked.get("url") != endpoint:
        yield Fault("mismatched_url", f"line {number}: url must be the batch's endpoint, {endpoint}", number, "url")
    if not isinstance(body, dict):
        yield Fault("missing_required_parameter", f"line {number}: body must be an object", number, "body")
    elif body.get("stream"):
        yield Fault("invalid_body", f"line {number}: body.stream: a batch's answers are whole", number, "body.stream")
