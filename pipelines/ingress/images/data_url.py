"""From a data: URL to the bytes in it, as clients really write such URLs: base64 with line breaks and blanks, in the alphabet of URLs, with
percent escapes, without its padding; a media type that is wrong, or misspelt, or has parameters.

Decides what of that is one (RFC 2397, RFC 4648) and what is a mistake that nobody could read. Pure. The interpreter's lock is held for a
piece at a time only.
"""

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

MAX_HEAD_CHARS = 256
MAX_CHARS_A_BYTE = 4
"""Where every character is an escape; blanks apart."""
_PIECE = 1 << 18
_BLANK = r"[ \t\r\n]*"
_HEAD = re.compile(
    rf"data:{_BLANK}(?:(?:image/[a-z0-9.+-]+|application/octet-stream){_BLANK})?(?:;[^;,]*)*;{_BLANK}base64{_BLANK}",
    re.IGNORECASE,
)
"""Every character belongs to one part of it only: what could belong to two is tried in each, and with n such, in 2^n ways."""
_ALPHABET = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"


class NoDataUrl(ValueError):
    """It goes on where the URL, or its beginning, stands."""


class TooLong(ValueError):
    """As many bytes it has at least."""


def from_data_url(url: str, *, max_bytes: int) -> bytes:
    """Raises `NoDataUrl`; `TooLong` for what becomes more than `max_bytes`."""
    comma = url.find(",", 0, MAX_HEAD_CHARS)
    head = url[: max(comma, 0)]
    if comma < 0 or not _HEAD.fullmatch(head) or head.lower().count("base64") > 1:
        raise NoDataUrl("is not of the form data:image/<type>;base64,<bytes>")
    at_least = (len(url) - comma) // MAX_CHARS_A_BYTE
    if at_least > max_bytes + MAX_CHARS_A_BYTE:
        raise TooLong(at_least)
    data, left = bytearray(), b""
    for piece in _pieces(url, comma + 1):
        if left.endswith(b"=") and piece.strip(b"="):
            raise NoDataUrl("is not valid base64: there is more behind its end")
        left += piece
        whole = left[: len(left) // 4 * 4]
        body = whole if not whole.endswith(b"=") else whole[:-4]
        data += _decoded(body)
        left = left[len(body) :]
        if len(data) > max_bytes:
            raise TooLong(len(data))
    return bytes(data + _decoded(_padded(left)))


def _pieces(url: str, start: int) -> Iterator[bytes]:
    """What stands behind `start`, in base64's own alphabet, without blanks. An escape is never cut."""
    while start < len(url):
        end = min(start + _PIECE, len(url))
        escape = url.find("%", max(start, end - 2), end)
        if end < len(url) and escape > start:
            end = escape
        try:
            piece = url[start:end].encode("ascii")
        except UnicodeEncodeError:
            raise NoDataUrl("is not valid base64: it has letters that are not ASCII") from None
        yield unquote_to_bytes(piece).translate(_ALPHABET, _BLANKS)
        start = end


def _padded(last: bytes) -> bytes:
    """The last characters, with the padding that belongs there."""
    bare = last.rstrip(b"=")
    return bare + b"=" * (-len(bare) % 4)


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error as error:
        raise NoDataUrl(f"is not valid base64: {str(error)[:100]}") from None
