"""AVIF: its size, and its essence: its primary image, with its transparency, in a file of their own. Pure.

Of sequences the still image is left; of profiles, thumbnails, metadata, and items that nothing here needs, nothing. Images that are put
together of several (grids) are refused.

Source: AV1 Image File Format 1.1; HEIF (ISO/IEC 23008-12), 6 and 9; ISO/IEC 14496-12, 8.11.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stages.images.formats.av1 import check_frames
from stages.images.formats.boxes import Box, Fields, boxes, written, written_full
from stages.images.formats.essence import MAX_PIECES, BadHeader, Essence

BRANDS = (b"avif", b"avis")
CONTAINERS = (b"mif1", b"msf1", b"miaf")
"""Major brands of files that may be AVIF."""
_ALPHA = (b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0", b"urn:mpeg:hevc:2015:auxid:1\0")
_NEEDED = (b"ispe", b"pixi", b"av1C", b"auxC")
MAX_PROPERTIES = 32
"""Of an item: an image made in earnest has about six."""
MAX_PROPERTY_BYTES = 4096
"""Of one that a decoder needs: they have about twenty."""
_ORIENTATIONS = {
    (0, None): 1, (0, 1): 2, (0, 0): 4,
    (1, None): 8, (1, 1): 7, (1, 0): 5,
    (2, None): 3, (2, 1): 4, (2, 0): 2,
    (3, None): 6, (3, 1): 5, (3, 0): 7,
}  # fmt: skip
"""(quarter turns against the clock, then which way it is mirrored: 0 upside down, 1 left to right) -> EXIF's."""


@dataclass(slots=True)
class _Item:
    kind: bytes = b""
    properties: list[Box] = field(default_factory=list)
    extents: list[tuple[bool, int, int]] = field(default_factory=list)  # whether in idat, start, length

    def add(self, found: Box) -> None:
        if len(self.properties) == MAX_PROPERTIES:
            raise BadHeader(f"its AVIF has an item with over {MAX_PROPERTIES} properties")
        self.properties.append(found)

    def first(self, kind: bytes) -> Box | None:
        return next((found for found in self.properties if found.kind == kind), None)

    def needed(self) -> Sequence[Box]:
        """The first of each kind that a decoder needs."""
        kept: dict[bytes, Box] = {}
        for found in filter(_is_needed, self.properties):
            if len(found.content) > MAX_PROPERTY_BYTES:
                raise BadHeader(f"its AVIF has a property of {len(found.content)} bytes")
            kept.setdefault(found.kind, found)
        return list(kept.values())

    @property
    def size(self) -> tuple[int, int]:
        found = self.first(b"ispe")
        if found is None:
            raise BadHeader("its AVIF doesn't say how large it is")
        fields = found.full()
        return fields.number(4), fields.number(4)


@dataclass(slots=True)
class _Budget:
    """Over all lists of a file together, since they stand within one another, and their entries may take no bytes."""

    left: int = MAX_PIECES

    def spend(self, count: int) -> int:
        """`count`. Raises `BadHeader` where it is more than is left."""
        if count > self.left:
            raise BadHeader(f"its AVIF has over {MAX_PIECES} entries in its lists")
        self.left -= count
        return count


@dataclass(frozen=True, slots=True)
class _Meta:
    """`references`: (kind, from, to)."""

    primary: int
    items: Mapping[int, _Item]
    references: Sequence[tuple[bytes, int, int]]
    idat: memoryview

    @property
    def image(self) -> _Item:
        return self.items[self.primary]

    def alpha(self) -> int | None:
        for kind, item, to in self.references:
            aux = self.items[item].first(b"auxC") if kind == b"auxl" and to == self.primary and item in self.items else None
            if aux is not None and bytes(aux.full().rest()[:64]).startswith(_ALPHA):
                return item
        return None


def is_avif(data: bytes | memoryview) -> bool:
    """By its first bytes."""
    head = bytes(data[:64])
    return head[4:8] == b"ftyp" and (head[8:12] in BRANDS or (head[8:12] in CONTAINERS and b"avif" in head[16:]))


def size(data: bytes | memoryview) -> tuple[int, int]:
    """As it is coded: before it is turned."""
    return _meta(data).image.size


def essence(data: bytes) -> Essence:
    """Raises `BadHeader`."""
    meta = _meta(data)
    alpha, (width, height) = meta.alpha(), meta.image.size
    wanted = [meta.image] if alpha is None else [meta.image, meta.items[alpha]]
    codes = [_code(item, meta, data) for item in wanted]
    for item, code in zip(wanted, codes, strict=True):
        if item.kind != b"av01":
            raise BadHeader(f"its AVIF is not one coded image but {item.kind!r}")
        if item.size != (width, height):
            raise BadHeader("its AVIF's transparency has another size than its image")
        check_frames(code, width, height)
    is_premultiplied = (b"prem", meta.primary, alpha) in meta.references
    whole = _written(wanted, codes, is_premultiplied=is_premultiplied)
    return Essence(whole, _orientation(meta.image), tables=width * height)


def _meta(data: bytes | memoryview) -> _Meta:
    found = next((box for box in boxes(data) if box.kind == b"meta"), None)
    if found is None:
        raise BadHeader("its AVIF has no image that stands still")
    inside: dict[bytes, Box] = {}
    for box in boxes(found.full().rest()):
        inside.setdefault(box.kind, box)
    missing = [kind.decode() for kind in (b"pitm", b"iinf", b"iloc", b"iprp") if kind not in inside]
    if missing:
        raise BadHeader(f"its AVIF has no {', '.join(missing)}")
    fields = inside[b"pitm"].full()
    primary = fields.number(4 if fields.version else 2)
    items = _items(inside[b"iinf"])
    budget = _Budget()
    _add_places(items, inside[b"iloc"], budget)
    _add_properties(items, inside[b"iprp"], budget)
    if primary not in items:
        raise BadHeader("its AVIF has no primary image")
    references = _references(inside[b"iref"], budget) if b"iref" in inside else []
    return _Meta(primary, items, references, inside[b"idat"].content if b"idat" in inside else memoryview(b""))


def _items(iinf: Box) -> dict[int, _Item]:
    fields = iinf.full()
    fields.number(4 if fields.version else 2)
    found = {}
    for box in boxes(fields.rest()):
        if box.kind == b"infe":
            entry = box.full()
            if entry.version < 2:
                continue
            id = entry.number(4 if entry.version > 2 else 2)
            entry.number(2)
            found[id] = _Item(bytes(entry.take(4)))
    return found


def _add_places(items: Mapping[int, _Item], iloc: Box, budget: _Budget) -> None:
    fields = iloc.full()
    sizes = fields.number(2)
    offset_bytes, length_bytes, base_bytes, index_bytes = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = fields.version == 2
    for _ in range(budget.spend(fields.number(4 if wide else 2))):
        id = fields.number(4 if wide else 2)
        method = fields.number(2) & 15 if fields.version else 0
        fields.number(2)
        base = fields.number(base_bytes)
        num_extents = budget.spend(fields.number(2))
        if num_extents > 1 and not offset_bytes and not length_bytes:
            raise BadHeader(f"its AVIF has an item of {num_extents} pieces that are all the same")
        for _ in range(num_extents):
            fields.number(index_bytes if fields.version else 0)
            start, length = base + fields.number(offset_bytes), fields.number(length_bytes)
            if id in items and method < 2:
                items[id].extents.append((method == 1, start, length))


def _add_properties(items: Mapping[int, _Item], iprp: Box, budget: _Budget) -> None:
    inside = list(boxes(iprp.content))
    known = list(boxes(next((box.content for box in inside if box.kind == b"ipco"), b"")))
    for box in inside:
        if box.kind != b"ipma":
            continue
        fields = box.full()
        for _ in range(budget.spend(fields.number(4))):
            id = fields.number(4 if fields.version else 2)
            for _ in range(budget.spend(fields.number(1))):
                index = fields.number(2) & 0x7FFF if fields.flags & 1 else fields.number(1) & 0x7F
                if id in items and 0 < index <= len(known):
                    items[id].add(known[index - 1])


def _references(iref: Box, budget: _Budget) -> list[tuple[bytes, int, int]]:
    fields = iref.full()
    num_bytes = 4 if fields.version else 2
    found = []
    for box in boxes(fields.rest()):
        each = Fields(box.content)
        start = each.number(num_bytes)
        found += [(box.kind, start, each.number(num_bytes)) for _ in range(budget.spend(each.number(2)))]
    return found


def _code(item: _Item, meta: _Meta, data: bytes) -> bytes:
    """Its bytes. Raises `BadHeader` where some are missing, or it would have more than the file."""
    pieces, left = [], len(data)
    for is_inside, start, length in item.extents:
        source = meta.idat if is_inside else memoryview(data)
        piece = source[start : start + length] if length else source[start:]
        if len(piece) < length or not piece or len(piece) > left:
            raise BadHeader("its AVIF is truncated")
        left -= len(piece)
        pieces.append(piece)
    return b"".join(pieces)


def _orientation(item: _Item) -> int:
    turn, mirror = item.first(b"irot"), item.first(b"imir")
    quarters = turn.content[0] & 3 if turn is not None and len(turn.content) else 0
    return _ORIENTATIONS[quarters, mirror.content[0] & 1 if mirror is not None and len(mirror.content) else None]


def _written(items: Sequence[_Item], codes: Sequence[bytes], *, is_premultiplied: bool) -> bytes:
    """A file of an image, and its transparency, if there are two."""
    ids = range(1, len(items) + 1)
    infos = [written_full(b"infe", struct.pack(">HH4sB", id, 0, b"av01", 0), version=2) for id in ids]
    kept = [item.needed() for item in items]
    properties = [written(prop.kind, prop.content) for each in kept for prop in each]
    parts = [
        written_full(b"hdlr", struct.pack(">I4s12xB", 0, b"pict", 0)),
        written_full(b"pitm", struct.pack(">H", 1)),
        written_full(b"iinf", struct.pack(">H", len(items)), *infos),
        written(b"iprp", written(b"ipco", *properties), _associated(kept)),
    ]
    if len(items) > 1:
        links = [written(b"auxl", struct.pack(">HHH", 2, 1, 1))]
        links += [written(b"prem", struct.pack(">HHH", 1, 1, 2))] if is_premultiplied else []
        parts.append(written_full(b"iref", *links))
    head = written(b"ftyp", b"avif", bytes(4), b"avif", b"mif1", b"miaf")
    places_bytes = 8 + 4 + 2 + 2 + len(items) * 14
    start = len(head) + 12 + sum(map(len, parts)) + places_bytes + 8
    places = []
    for id, code in zip(ids, codes, strict=True):
        places.append(struct.pack(">HHHII", id, 0, 1, start, len(code)))
        start += len(code)
    parts.append(written_full(b"iloc", struct.pack(">HH", 0x4400, len(items)), *places))
    return b"".join([head, written_full(b"meta", *parts), written(b"mdat", *codes)])


def _associated(kept: Sequence[Sequence[Box]]) -> bytes:
    entries, index = [], 0
    for id, properties in enumerate(kept, 1):
        numbers = range(index + 1, index + 1 + len(properties))
        flags = [(0x80 if prop.kind == b"av1C" else 0) | number for number, prop in zip(numbers, properties, strict=True)]
        entries.append(struct.pack(">HB", id, len(flags)) + bytes(flags))
        index += len(properties)
    return written_full(b"ipma", struct.pack(">I", len(kept)), *entries)


def _is_needed(prop: Box) -> bool:
    return prop.kind in _NEEDED or (prop.kind == b"colr" and bytes(prop.content[:4]) == b"nclx")
