"""From the bytes of a request to a checked body, or to an error that names the field, the value and what is allowed.

Bounded while reading, before parsing; parsed off the event loop where large. The libraries that parse and check keep the interpreter's
lock until they are done, and so the loop waiting: what would take them long is refused, or given to them in pieces. Knows the shapes
of bodies (pydantic), not their meaning; a multipart form's own are in `forms.py`.
"""

import json
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from pipelines.ingress.schemas.strict import WholeBody
from stages.concurrency.thread_pool import TwoLanes
from stages.contract.errors import InvalidRequest, TooLarge

B = TypeVar("B", bound=WholeBody)

JSON_TYPE = "application/json"
MAX_VALUES = 200_000  # a body of nothing but tiny values costs a hundred times its size in memory
MAX_OPENINGS = 65_536  # arrays and objects cost most
MAX_ESCAPES = 1_000_000
MAX_BLANKS = 4_000_000
MAX_BYTES_BEYOND_ASCII = 8 * 2**20
LOOK_BYTES = 256 * 1024
WEIGHT_A_PIECE = 1024  # members and parts of members that are checked at once
MAX_MEMBERS = 4096
MAX_NAME_CHARS = 200  # of a member, in what is said of it
DIGEST = "body_digest"
"""Where in a request's state that of its body stands."""
DIGESTED_BYTES = 64 * 1024

UNSUPPORTED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "prefix": "use continue_final_message",
    "partial": "use continue_final_message",
    "chat_template": "messages are written by the model's own",
    "documents": "put them into messages",
    "images": "put them into content, as parts of type image_url",
    "modalities": "answers are text",
    "audio": "answers are text",
    "web_search_options": "models here don't search",
    "dimensions": "vectors come at the model's own width; leave dimensions out",
    "store": "answers are not stored",
    "suffix": "models here only go on with a text",
    "background": "images are opaque, and answers come with their request",
    "previous_response_id": "responses are not stored; send the conversation's items in input",
    "conversation": "responses are not stored; send the conversation's items in input",
    "markup": "say in the prompt what is to change, and in mask where",
    "frame_count": "images have one frame",
    "frame_duration_ms": "images have one frame",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias, or structured_outputs",
    "stop_regex": "use stop",
    "length_penalty": "it is for beam search",
    "prompt_logprobs": "/v1/completions tells them, with echo and logprobs",
    "truncate_prompt_tokens": "prompts are read whole, or refused",
    "prompt_embeds": "prompts are texts or tokens",
    "input_ids": "/v1/completions takes tokens, as prompt",
    "cache_salt": "tenants, told apart by their keys, share no cache",
    "lora_path": "the weights of a model are those of its configuration",
}
JSON_NAMES = {
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
    "string_type": "a string",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
}
NOT_SUPPORTED = ("extra_forbidden", "none_required", "too_long")


class UnsupportedMediaType(InvalidRequest):
    """The body is declared as something else than the route takes."""

    code = "unsupported_media_type"


async def read_json(request: Request, model: type[B], parsing: TwoLanes, *, max_bytes: int) -> B:
    """Raises `InvalidRequest`, `UnsupportedMediaType` or `TooLarge`; Starlette's `ClientDisconnect` where the client goes
    away."""
    refuse_other_types(request, JSON_TYPE)
    body = await whole_body(request, max_bytes)
    setattr(request.state, DIGEST, digest_of(body))
    return await parsing.run(len(body), parse, body, model)


def digest_of(body: bytes | bytearray, *, apart_from: bytes = b"") -> str:
    """Of its length, beginning and end, but for what differs each time: tells a body that comes again."""
    digest = blake2b(len(body).to_bytes(8, "big"), digest_size=16)
    begins, ends = body[:DIGESTED_BYTES], body[-DIGESTED_BYTES:]
    if apart_from:  # half of one may lie at a cut
        begins = begins.replace(apart_from, b"")[: DIGESTED_BYTES // 2]
        ends = ends.replace(apart_from, b"")[-DIGESTED_BYTES // 2 :]
    digest.update(begins)
    digest.update(ends)
    return digest.hexdigest()


async def whole_body(request: Request, max_bytes: int) -> bytearray:
    """Grows as it comes: to put it together at the end would take a while. Raises as `bounded` does."""
    body = bytearray()
    async for chunk in bounded(request, max_bytes):
        body += chunk
    return body


def is_json(request: Request) -> bool:
    """Whether its body is declared as JSON: of a route that takes other types, too."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == JSON_TYPE


def refuse_other_types(request: Request, media_type: str) -> str:
    """The content-type, of a body that is declared as `media_type`. Raises `UnsupportedMediaType`."""
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != media_type:
        given = f"{kind[:100]!r}" if kind else "none"
        raise UnsupportedMediaType(f"content-type must be {media_type} (given: {given})", param="content-type")
    return content_type


async def bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes]:
    """The body as it comes. Raises `TooLarge` as soon as it is over the bound, or says that it will be."""
    too_large = TooLarge(f"the body is over {max_bytes} bytes (limits.body_bytes)")
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        yield chunk


def parse(body: bytes | bytearray, model: type[B]) -> B:
    """Raises `InvalidRequest`."""
    document = document_of(body)
    _refuse_crowds(
        {name: value for name, value in document.items() if not (name in model.token_lists and _are_numbers(value))}
    )
    return checked(document, model)


def document_of(body: bytes | bytearray) -> dict[str, Any]:
    """The object that the bytes are as JSON. Raises `InvalidRequest`."""
    _refuse_what_takes_long(body)
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body must be a JSON object (given: {shown(document)})")
    return document


def _refuse_what_takes_long(body: bytes | bytearray) -> None:
    """Bounds what costs more than its bytes: the parser doesn't let go of the interpreter's lock before it is done."""
    found = Counter[str]()
    for start in range(0, len(body), LOOK_BYTES):
        costly = body[start : start + LOOK_BYTES].translate(None, _CHEAP)
        for what, (marks, _) in _COSTLY.items():
            found[what] += sum(map(costly.count, marks))
        found[_BEYOND_ASCII] += len(costly.translate(None, _ASCII))
    limits = {what: limit for what, (_, limit) in _COSTLY.items()} | {_BEYOND_ASCII: MAX_BYTES_BEYOND_ASCII}
    for what, limit in limits.items():
        if found[what] > limit:
            raise InvalidRequest(f"the body has over {limit} {what}")


_COSTLY = {
    "commas, and so perhaps JSON values": ((b",",), MAX_VALUES),
    "opening brackets, and so perhaps JSON arrays and objects": ((b"[", b"{"), MAX_OPENINGS),
    "escapes": ((b"\\",), MAX_ESCAPES),
    "blanks": ((b" ", b"\n", b"\r", b"\t"), MAX_BLANKS),
}
_BEYOND_ASCII = "bytes that are not ASCII"
_ASCII = bytes(range(128))
_CHEAP = bytes(set(_ASCII) - {mark[0] for marks, _ in _COSTLY.values() for mark in marks})


def checked(document: dict[str, Any], model: type[B]) -> B:
    """The document as a body; what there may be much of in it (`model.long_list`), a piece at a time. Raises `InvalidRequest`."""
    name = model.long_list
    members = document.get(name)
    if not isinstance(members, list) or _weight(members) <= WEIGHT_A_PIECE:
        return _checked(document, model, document)
    found: list[Any] = []
    for piece in _pieces(members):
        body = _checked({**document, name: piece}, model, document, first=len(found))
        found += getattr(body, name)
    return body.model_copy(update={name: found})


def _checked(document: dict[str, Any], model: type[B], whole: dict[str, Any], *, first: int = 0) -> B:
    """`first`: the index in the whole document of the first member of the model's long list."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False)
    for detail in details:
        name, *inner = detail["loc"]
        if first and name == model.long_list and inner and isinstance(inner[0], int):
            detail["loc"] = (name, first + inner[0], *inner[1:])
    raise explained(details, whole, model.model_fields)


def _weight(member: object) -> int:
    """How many there are of a message's parts, and of their like."""
    if isinstance(member, dict):
        return 1 + sum(len(value) for value in member.values() if isinstance(value, list))
    return sum(map(_weight, member)) if isinstance(member, list) else 1


def _pieces(members: Sequence[object]) -> Iterator[list[object]]:
    piece: list[object] = []
    weight = 0
    for member in members:
        piece.append(member)
        weight += _weight(member)
        if weight >= WEIGHT_A_PIECE:
            yield piece
            piece, weight = [], 0
    if piece:
        yield piece


def _refuse_crowds(document: object) -> None:
    """Explaining what is wrong with each of 200,000 members takes seconds, so there may not be so many to explain."""
    waiting = [document]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            if len(here) > MAX_MEMBERS:
                raise InvalidRequest(f"the body holds {shown(here)} members; at most {MAX_MEMBERS} in one array or object")
            waiting.extend(here.values() if isinstance(here, dict) else here)


def _are_numbers(value: object) -> bool:
    """Whether there are whole numbers only, in a list or in some lists, so that nothing need be explained."""
    if not isinstance(value, list):
        return False
    lists = value if value and isinstance(value[0], list) else [value]
    return len(lists) <= MAX_MEMBERS and all(isinstance(one, list) and set(map(type, one)) <= {int} for one in lists)


def explained(details: Sequence[ErrorDetails], document: object, known: Iterable[str] = ()) -> InvalidRequest:
    """The one error to tell: where a field may have several types, that of the type which came nearest. `known`: the document's fields,
    of which the nearest is told where another was meant."""
    first = details[0]["loc"][:1]
    located = [(_path(detail, document), detail) for detail in details if detail["loc"][:1] == first]
    param, detail = max(located, key=lambda pair: len(pair[0]))
    texts = list(dict.fromkeys(_allowed(other) for path, other in located if path == param))
    message = _message(param, detail, " or ".join(texts))
    if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
        message += _meant(param, known)
    return InvalidRequest(message, param=param or None)


def _meant(field: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(field.lower(), known, n=1, cutoff=0.75)
    return f"; did you mean {nearest[0]}?" if nearest and field not in UNSUPPORTED else ""


def _path(detail: ErrorDetails, document: object) -> str:
    """`messages[0].content[1].image_url.url` out of pydantic's location, which also holds the names of union members."""
    path, here, location = "", document, detail["loc"]
    for position, step in enumerate(location):
        if isinstance(here, Mapping) and step in here:
            here = here[step]
        elif isinstance(here, Sequence) and not isinstance(here, str) and isinstance(step, int) and step < len(here):
            path, here = f"{path}[{step}]", here[step]
            continue
        elif not (position == len(location) - 1 and detail["type"] == "missing"):
            continue
        name = str(step)[:MAX_NAME_CHARS]  # the client's own word, where it names a member that is not known
        path += f".{name}" if path else name
    if detail["type"].startswith("union_tag"):
        path += f".{detail.get('ctx', {}).get('discriminator', '').strip(chr(39))}"
    return path


def _message(param: str, detail: ErrorDetails, allowed: str) -> str:
    name = param.rpartition("]")[2].lstrip(".") or param
    reason = UNSUPPORTED.get(name) or UNSUPPORTED.get(name.rpartition(".")[2])
    if detail["type"] in ("missing", "union_tag_not_found"):
        return f"{param} is required"
    if detail["type"] == "extra_forbidden" or (reason and detail["type"] in NOT_SUPPORTED):
        return f"{param} is not supported{f': {reason}' if reason else ''}"
    value = detail["input"]
    if detail["type"] == "union_tag_invalid":
        value = detail.get("ctx", {}).get("tag")
    told = f"{param}: {allowed} (given: {shown(value)})"
    return f"{told}: {reason}" if reason else told


def _allowed(detail: ErrorDetails) -> str:
    context: Mapping[str, Any] = detail.get("ctx", {})
    match detail["type"]:
        case "literal_error":
            return f"must be {context['expected']}"
        case "union_tag_invalid":
            return f"must be {context['expected_tags']}"
        case "none_required":
            return "must be null or left out"
        case "too_long":
            return f"must have at most {context['max_length']} items (it has {context['actual_length']})"
        case "too_short":
            return f"must have at least {context['min_length']} items (it has {context['actual_length']})"
        case kind if kind in JSON_NAMES:
            return f"must be {JSON_NAMES[kind]}"
        case _:
            message = detail["msg"]
            return message.removeprefix("Value error, ").removeprefix("Input ").replace("should ", "must ", 1)


def shown(value: object, limit: int = 80) -> str:
    """A value as JSON, shortened."""
    if isinstance(value, str):
        value = value[: limit + 1]
    elif isinstance(value, list | dict) and len(value) > 20:
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value)}"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."
