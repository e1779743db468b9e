"""How a result gets its name: a 256-bit digest of everything that made it.

Decides how fields become bytes, so that two different sets of fields can never share a name: every value carries a type tag
and a length, maps are ordered by key, and the schema version and the kind are always in. Pure: knows no models, no tiers, no
requests; what belongs in a name (weights, dtype, parameters, tenant salt, inputs) is decided by whoever asks for it.
"""

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence

Field = str | bytes | int | float | bool | None | Sequence["Field"] | Mapping[str, "Field"]
"""What a name can be made of. Sequences are lists or tuples (they mean the same). 1, 1.0, True and "1" all differ."""

SCHEMA_VERSION = 1
"""In every name. Raise it when the meaning of fields or of results changes: old results are then never found again."""

_LENGTH = struct.Struct("<cQ")
_DOUBLE = struct.Struct("<d")
_NAMED = b"name\0"
_NAME_CHARACTERS = 64


def name(kind: str, /, **fields: Field) -> str:
    """The name of a result, 64 hex digits. `kind` says what it is ("image-features"); the order of fields is irrelevant.

    Raises `TypeError` for a value that is no `Field` (arrays and tensors are none), `ValueError` for NaN, which
    equals nothing.
    """
    return _hex([SCHEMA_VERSION, kind, fields])


def digest(data: bytes | bytearray | memoryview) -> str:
    """Names content by its bytes alone, 64 hex digits. Lies in the same space as `name` but never collides with one."""
    whole = hashlib.sha256(b"content\0")
    whole.update(data)
    return whole.hexdigest()


def page_names(parent: str, token_ids: Sequence[int], page_tokens: int, images: Sequence[tuple[str, int]] = ()) -> list[str]:
    """Names of the KV pages of a prompt, one for every full page of `page_tokens` tokens; a partial last page has no name.

    A hash chain: `page = H(parent, token ids, [(image digest, offset in the page)])`, so that a page's name stands for
    everything before it too. `parent` is the root's name (weights, dtype, tenant salt, ...) or the name of the page before
    `token_ids[0]`: naming a prompt in two pieces gives the same names as naming it whole. `images` are (digest, offset of
    the image's first placeholder in `token_ids`); pages that an image reaches into inherit it through their parent.
    """
    if page_tokens < 1:
        raise ValueError(f"page_tokens: {page_tokens} is less than 1")
    starting = _by_page(images, page_tokens, len(token_ids))
    num_pages = len(token_ids) // page_tokens
    ids, each = struct.pack(f"<{num_pages * page_tokens}q", *token_ids[: num_pages * page_tokens]), 8 * page_tokens
    names: list[str] = []
    before, between = _around_parent(each)
    for number in range(num_pages):
        of_page = ids[number * each : (number + 1) * each]
        if (begun := starting.get(number)) or len(parent) != _NAME_CHARACTERS or not parent.isascii():
            parent = name("kv-page", parent=parent, token_ids=of_page, images=begun or [])
        else:  # the same, without encoding again what is the same in every page
            parent = hashlib.sha256(before + parent.encode() + between + of_page).hexdigest()
        names.append(parent)
    return names


def _around_parent(num_id_bytes: int) -> tuple[bytes, bytes]:
    """What is hashed of a page in which no image begins, before its parent's name and between that and its tokens."""
    parent, ids = "." * _NAME_CHARACTERS, b"-" * num_id_bytes
    encoded = bytearray(_NAMED)
    _encode([SCHEMA_VERSION, "kv-page", {"parent": parent, "token_ids": ids, "images": []}], encoded)
    before, _, rest = bytes(encoded).partition(parent.encode())
    return before, rest.removesuffix(ids)


def _by_page(images: Sequence[tuple[str, int]], page_tokens: int, num_tokens: int) -> dict[int, list[tuple[int, str]]]:
    pages: dict[int, list[tuple[int, str]]] = {}
    for image, offset in images:
        if not 0 <= offset < num_tokens:
            raise ValueError(f"images: offset {offset} is outside the prompt of {num_tokens} tokens")
        pages.setdefault(offset // page_tokens, []).append((offset % page_tokens, image))
    for starting in pages.values():
        starting.sort()
    return pages


def _hex(value: Field) -> str:
    encoded = bytearray()
    _encode(value, encoded)
    return hashlib.sha256(_NAMED + encoded).hexdigest()


def _encode(value: Field, out: bytearray) -> None:
    """Appends tag, length, payload. Prefix-free, so a sequence of encodings can be read back in one way only."""
    if isinstance(value, Mapping):
        _encode_mapping(value, out)
    elif isinstance(value, (list, tuple)):
        out += _LENGTH.pack(b"l", len(value))
        for entry in value:
            _encode(entry, out)
    else:
        tag, payload = _scalar(value)
        out += _LENGTH.pack(tag, len(payload))
        out += payload


def _encode_mapping(value: Mapping[str, Field], out: bytearray) -> None:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a name's field is called by a str, not by {type(key).__name__} {key!r}")
    out += _LENGTH.pack(b"m", len(value))
    for key in sorted(value):
        _encode(key, out)
        _encode(value[key], out)


def _scalar(value: object) -> tuple[bytes, bytes]:
    if value is None:
        return b"n", b""
    if isinstance(value, bool):  # before int: bool is a subclass of it
        return b"b", b"\x01" if value else b"\x00"
    if isinstance(value, str):
        return b"s", value.encode("utf-8", "surrogatepass")  # JSON can carry a lone surrogate
    if isinstance(value, bytes):
        return b"y", value
    if isinstance(value, int):
        return b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if isinstance(value, float):
        if math.isnan(value):
            raise ValueError("NaN cannot be part of a name: it equals nothing, itself included")
        return b"f", _DOUBLE.pack(value + 0.0)  # -0.0 + 0.0 is 0.0: equal values, equal names
    raise TypeError(
        f"{type(value).__name__} cannot be part of a name; convert it to str, bytes, int, float, bool, None, list or dict"
    )
