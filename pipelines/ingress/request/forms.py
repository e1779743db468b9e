"""From a multipart form to a checked body and its one file, with the bounds and the errors of `bodies.py`.

A form has no types: a field's text is read as what the body declares. A field within a field is written `outer[inner]`, as
OpenAI's SDK writes it. Nothing is spooled to disk: the body is bounded. Knows no particular form.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from pipelines.ingress.request.bodies import explained, parsed, read_bytes
from stages.contract.errors import InvalidRequest

B = TypeVar("B", bound=BaseModel)

MEDIA_TYPE = "multipart/form-data"
MAX_PARTS = 64
MAX_NAME_CHARS = 128
_INNER = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")

Document = dict[str, str | dict[str, str]]


@dataclass(frozen=True, slots=True)
class Form(Generic[B]):
    body: B
    file: bytes


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    is_file: bool
    data: bytearray = field(default_factory=bytearray)

    def text(self) -> str:
        """Raises `InvalidRequest`."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name} is not valid UTF-8", param=self.name) from None


async def read_form(request: Request, model: type[B], *, file: str, max_bytes: int) -> Form[B]:
    """The checked fields, and the bytes of the part named `file` (or `file[]`, as the SDK names the members of a list).

    Raises as `read_json` does; a missing file, several, and a file where text is meant are an `InvalidRequest` too.
    """
    body = await read_bytes(request, MEDIA_TYPE, max_bytes)
    _, options = parse_options_header(request.headers["content-type"])
    if b"boundary" not in options:
        raise InvalidRequest(f"content-type {MEDIA_TYPE} needs a boundary", param="content-type")
    return await parsed(body, partial(parse_form, boundary=options[b"boundary"], model=model, file=file))


def parse_form(body: bytes, *, boundary: bytes, model: type[B], file: str) -> Form[B]:
    """Raises `InvalidRequest`."""
    parts = split(body, boundary)
    names = (file, f"{file}[]")
    document = _document([part for part in parts if part.name not in names], model)
    try:
        checked = model.model_validate_strings(document)
    except ValidationError as error:
        raise explained(error.errors(include_url=False), document) from None
    files = [part.data for part in parts if part.name in names]
    if not files:
        raise InvalidRequest(f"{file} is required", param=file)
    if len(files) > 1:
        raise InvalidRequest(f"{file}: {len(files)} files are given; at most 1", param=file)
    return Form(checked, bytes(files[0]))


def split(body: bytes, boundary: bytes) -> Sequence[Part]:
    """The parts of a multipart body. Raises `InvalidRequest`."""
    collector = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin,
                "on_header_field": collector.header_name,
                "on_header_value": collector.header_value,
                "on_header_end": collector.header_end,
                "on_headers_finished": collector.headers_end,
                "on_part_data": collector.data,
                "on_end": collector.end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise InvalidRequest(f"the body is not valid {MEDIA_TYPE}: {error}") from None
    if not collector.ended:
        raise InvalidRequest(f"the body is not valid {MEDIA_TYPE}: it ends before its last boundary")
    return collector.parts


class _Collector:
    """Takes what the parser finds, in the order of the body."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""

    def begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise InvalidRequest(f"the form has over {MAX_PARTS} parts")
        self._disposition = b""

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name, self._value = bytearray(), bytearray()

    def headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode(errors="replace")
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidRequest(f"a part of the form has a name of {len(name)} characters; 1 to {MAX_NAME_CHARS} are allowed")
        self.parts.append(Part(name, b"filename" in options))

    def data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].data.extend(memoryview(data)[start:end])

    def end(self) -> None:
        self.ended = True


def _document(parts: Iterable[Part], model: type[BaseModel]) -> Document:
    """The fields by name, as the body nests them."""
    document: Document = {}
    for part in parts:
        if part.is_file and part.name in model.model_fields:
            raise InvalidRequest(f"{part.name} must be text, not a file", param=part.name)
        match = _INNER.fullmatch(part.name)
        inner = match if match and match[1] in model.model_fields else None
        place, key = (document.setdefault(inner[1], {}), inner[2]) if inner else (document, part.name)
        if not isinstance(place, dict) or key in place:
            raise InvalidRequest(f"{part.name} is given twice", param=part.name)
        place[key] = "" if part.is_file else part.text()  # a file that no field is for: refused by its name
    return document
