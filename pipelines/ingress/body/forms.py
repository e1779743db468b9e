"""From a multipart form to a checked body and its files, with the bounds and the errors of `bodies.py`.

A form has no types: a field's text is read as what the body declares. A field within a field is written `outer[inner]`, as
OpenAI's SDK writes it. Parsed off the event loop where large, in small pieces; nothing is spooled to disk: the body is bounded. Knows
no particular form.
"""

import logging
import re
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pipelines.ingress.body.bodies import DIGEST, LOOK_BYTES, digest_of, explained, refuse_other_types, shown, whole_body
from pipelines.ingress.schemas.strict import WholeBody
from stages.concurrency.thread_pool import TwoLanes
from stages.contract.errors import InvalidRequest

B = TypeVar("B", bound=WholeBody)
T = TypeVar("T")

MEDIA_TYPE = "multipart/form-data"
MAX_PARTS = 64
MAX_NAME_CHARS = 128
SLICE_BYTES = 64 * 1024
_BOUNDARY = re.compile(r"[A-Za-z0-9'()+_,./:=? -]{1,200}")  # as RFC 2046, 5.1.1 has it, but for its length
_INNER = re.compile(r"([^\[\]]+)\[([^\[\]]+)\]")

Document = dict[str, str | dict[str, str]]


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    data: bytes = field(repr=False)
    is_file: bool
    filename: str = ""

    def text(self) -> str:
        """Raises `InvalidRequest`."""
        try:
            return self.data.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{self.name} is not valid UTF-8", param=self.name) from None


@dataclass(frozen=True, slots=True)
class Form(Generic[B]):
    """`files`: by the name of the field, in their order; `filenames`: what the client calls them, "" where it doesn't say."""

    body: B
    files: Mapping[str, Sequence[bytes]]
    filenames: Mapping[str, Sequence[str]] = field(default_factory=dict)


async def read_form(
    request: Request, model: type[B], parsing: TwoLanes, *, files: Mapping[str, int], max_bytes: int
) -> Form[B]:
    """The checked fields, and the bytes of the parts named in `files` (or `name[]`, as the SDK names the members of a list), of each at
    most so many.

    Raises as `read_json` does; too many files, and a file where text is meant, are an `InvalidRequest` too.
    """
    content_type = refuse_other_types(request, MEDIA_TYPE)
    body = await whole_body(request, max_bytes)
    setattr(request.state, DIGEST, digest_of(body, apart_from=_boundary(content_type).encode()))  # clients draw it by lot
    return await parsing.run(len(body), parse_form, content_type, body, model, files=files)


def parse_form(content_type: str, body: bytes | bytearray, model: type[B], *, files: Mapping[str, int]) -> Form[B]:
    """Raises `InvalidRequest`."""
    parts = _finished(_parts(content_type, body))
    named = {each: name for name in files for each in (name, f"{name}[]")}
    document = _document([part for part in parts if part.name not in named], model)
    try:
        fields = model.model_validate_strings(document)
    except ValidationError as error:
        raise explained(error.errors(include_url=False), document, model.model_fields) from None
    given = {name: [part for part in parts if named.get(part.name) == name] for name in files}
    for name, most in files.items():
        if len(given[name]) > most:
            raise InvalidRequest(f"{name}: {len(given[name])} files are given; at most {most}", param=name)
    return Form(
        fields,
        {name: [part.data for part in each] for name, each in given.items()},
        {name: [part.filename for part in each] for name, each in given.items()},
    )


class _Parser(MultiPartParser):
    """Starlette's, in memory, which also tells whether the form's last boundary came."""

    spool_max_size = 0  # of what stays in memory: no bound but the body's
    ended = False

    async def parse(self) -> FormData:
        # It warns of every form that is none; its sender is told, and nobody else need be.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        return await super().parse()

    def on_end(self) -> None:
        self.ended = True

    def close(self) -> None:
        """Of a form that breaks off, the last file is in none of its parts."""
        for file in self._files_to_close_on_error:
            file.close()


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing comes to: the library's parser is one where everything is in memory."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("it waits for something")


async def _slices(body: bytes | bytearray) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), SLICE_BYTES):
        yield bytes(body[start : start + SLICE_BYTES])


async def _parts(content_type: str, body: bytes | bytearray) -> Sequence[Part]:
    """The parts of a multipart body, in order. Raises `InvalidRequest`."""
    boundary = _boundary(content_type)
    _refuse_near_boundaries(boundary, body)
    # Starlette reads as Latin-1 what is not UTF-8. As Latin-1 every byte is kept, so that it can be refused here. Nothing else of what
    # the client declares is handed on: a quote that it leaves open would swallow what stands behind.
    headers = Headers({"content-type": f'{MEDIA_TYPE}; charset=latin-1; boundary="{boundary}"'})
    parser = _Parser(headers, _slices(body), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=len(body))
    try:
        form = await parser.parse()
        if not parser.ended:
            raise InvalidRequest(f"the body is not valid {MEDIA_TYPE}: it ends before its last boundary")
        return [await _part(name, value) for name, value in form.multi_items()]
    except MultiPartException as error:
        raise InvalidRequest(f"the body is not valid {MEDIA_TYPE}: {error.message}") from None
    finally:
        parser.close()


def _boundary(content_type: str) -> str:
    """What stands between the parts. Raises `InvalidRequest`."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest(f"content-type {MEDIA_TYPE} needs a boundary (given: {shown(boundary)})", param="content-type")
    return boundary


def _refuse_near_boundaries(boundary: str, body: bytes | bytearray) -> None:
    """What looks like a boundary and is none costs the parser a hundred times its size in time; a client takes one that its data doesn't
    hold. Raises `InvalidRequest`."""
    mark = b"\r\n--" + boundary.encode("latin-1")
    pieces = (body[start : start + LOOK_BYTES] for start in range(0, len(body), LOOK_BYTES))
    if sum(piece.count(mark) for piece in pieces) > MAX_PARTS + 1:
        raise InvalidRequest(f"the body has over {MAX_PARTS} parts, or holds its own boundary within them")


async def _part(latin_name: str, value: str | UploadFile) -> Part:
    name = latin_name.encode("latin-1").decode(errors="replace")
    if not 0 < len(name) <= MAX_NAME_CHARS:
        raise InvalidRequest(f"a part of the form has a name of {len(name)} characters; 1 to {MAX_NAME_CHARS} are allowed")
    if isinstance(value, UploadFile):
        filename = (value.filename or "").encode("latin-1", "replace").decode(errors="replace")
        return Part(name, await value.read(), is_file=True, filename=filename)
    return Part(name, value.encode("latin-1"), is_file=False)


def _document(parts: Sequence[Part], model: type[WholeBody]) -> Document:
    """The fields by name, as the body nests them."""
    document: Document = {}
    for part in parts:
        if part.is_file and part.name in model.model_fields:
            raise InvalidRequest(f"{part.name} must be text, not a file", param=part.name)
        match = _INNER.fullmatch(part.name)
        inner = match if match and match[1] in model.model_fields else None
        fields, key = (document.setdefault(inner[1], {}), inner[2]) if inner else (document, part.name)
        if not isinstance(fields, dict) or key in fields:
            raise InvalidRequest(f"{part.name} is given twice", param=part.name)
        fields[key] = "" if part.is_file else part.text()  # a file that no field is for: refused by its name
    return document
