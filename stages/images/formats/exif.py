"""The one thing in EXIF that an image's pixels need: which way is up. Pure.

General readers follow every reference in it: 65,535 entries that each name the same megabytes are gigabytes to copy. Here the first
directory's entries are looked at one by one, and no reference is followed.

Source: EXIF 2.3 (CIPA DC-008), 4.6.2 and 4.6.4; TIFF 6.0, section 2.
"""

import struct

from stages.images.formats.essence import MAX_PIECES

UPRIGHT = 1
_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # by TIFF type: BYTE, SHORT, LONG
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_PREFIX = b"Exif\0\0"


def orientation(exif: bytes | memoryview) -> int:
    """1-8. Damaged EXIF means upright, as it does to browsers."""
    start = len(_PREFIX) if exif[: len(_PREFIX)] == _PREFIX else 0
    order = _BYTE_ORDERS.get(bytes(exif[start : start + 4]))
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, start + 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start + directory)
        for entry in range(min(count, MAX_PIECES)):
            at = start + directory + 2 + 12 * entry
            tag, kind = struct.unpack_from(f"{order}HH", exif, at)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", exif, at + 8)
                return value if 1 <= value <= 8 else UPRIGHT
    except (struct.error, KeyError):
        pass
    return UPRIGHT
