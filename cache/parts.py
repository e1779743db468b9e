"""How encoded bytes that are too many for one key are spread over several, and put together again.

Decides the keys and the head that names them. Knows no store, and believes nothing: what is put together is checked as what never was
in parts is (`cache/codec.py`), since its check covers all of it.

The head stands under the value's own key; the parts, under keys that hold the value's check too, so that two writers of one key never
mix theirs. A part that is missing is a value that is missing.

    magic "TPTP" | format version | bytes of a part | bytes of all | check
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cache.codec import CHECK_BYTES, CorruptValue, check_of

_MAGIC = b"TPTP"
_VERSION = 1
MAX_PARTS = 4096
_HEAD = struct.Struct(f"<4sHIQ{CHECK_BYTES}s")


@dataclass(frozen=True, slots=True)
class Parts:
    """Of one value: `head` is stored after them."""

    head: bytes
    pieces: tuple[tuple[str, memoryview], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Where the parts of a value are."""

    keys: tuple[str, ...]
    part_bytes: int
    num_bytes: int

    def joined(self, pieces: Sequence[bytes]) -> bytes:
        """Raises `CorruptValue` where they are not as long as they were."""
        if [len(piece) for piece in pieces] != list(self._sizes()):
            raise CorruptValue("a part is missing or is not as long as it was")
        return b"".join(pieces)

    def _sizes(self) -> Sequence[int]:
        whole, rest = divmod(self.num_bytes, self.part_bytes)
        return [self.part_bytes] * whole + [rest] * bool(rest)


def divided(key: str, data: bytes, part_bytes: int) -> Parts:
    """`data`: as encoded for this key."""
    head = _HEAD.pack(_MAGIC, _VERSION, part_bytes, len(data), check_of(data))
    view = memoryview(data)
    starts = range(0, len(data), part_bytes)
    keys = _keys(key, check_of(data), len(starts))
    return Parts(head, tuple((name, view[at : at + part_bytes]) for name, at in zip(keys, starts, strict=True)))


def table_of(key: str, stored: bytes, max_bytes: int) -> Table | None:
    """None: these bytes are no head. Raises `CorruptValue` for a head of more than `max_bytes`, or of none."""
    if len(stored) != _HEAD.size or not stored.startswith(_MAGIC):
        return None
    _, version, part_bytes, num_bytes, check = _HEAD.unpack(stored)
    if version != _VERSION or not 0 < part_bytes <= num_bytes <= max_bytes or num_bytes > MAX_PARTS * part_bytes:
        raise CorruptValue(f"a head of {num_bytes} bytes in parts of {part_bytes}, format {version}")
    return Table(_keys(key, check, -(-num_bytes // part_bytes)), part_bytes, num_bytes)


def _keys(key: str, check: bytes, count: int) -> tuple[str, ...]:
    return tuple(f"{key}.{check.hex()}.{number}" for number in range(count))
