"""Files that clients give and get: their bytes, and what is told of them, under one id. Decides no limits; knows no HTTP and no content."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.ingress.kept import records
from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner

NOTE_BYTES = 2048  # at most, of what is told of one


@dataclass(frozen=True, slots=True)
class FileNote:
    """`created`, `expires`: seconds since 1970."""

    id: str
    filename: str
    purpose: str
    num_bytes: int
    created: float
    expires: float


class KeptFiles:
    """Methods raise `Unavailable` where what is kept can't be reached."""

    def __init__(self, values: KeptValues, *, keep_s: float, max_bytes: int, max_files: int) -> None:
        self._values, self._keep_s = values, keep_s
        self._notes = Kind("file-note", "files", keep_s, max_files * NOTE_BYTES, max_files, setting="ingress.kept.files")
        self._contents = Kind("file", "files", keep_s, max_bytes, max_files, setting="ingress.kept.file_bytes")

    async def put(self, id: str, filename: str, purpose: str, content: bytes, owner: Owner) -> FileNote:
        """Of an id that is there already nothing is written anew. Raises `KeptFull`."""
        now = time.time()
        note = FileNote(id, filename, purpose, len(content), now, now + self._keep_s)
        if await self._values.put(self._contents, id, content, owner):
            try:
                await self._values.put(self._notes, id, records.to_bytes(note), owner)
            except BaseException:
                await self._values.delete(self._contents, id, owner)
                raise
        return note

    async def note(self, id: str, owner: Owner) -> FileNote | None:
        """None: there is none, it is another's, its time is over, or it is of another version."""
        found = await self._values.get(self._notes, id, owner)
        return records.of_bytes(FileNote, found) if found is not None else None

    async def content(self, id: str, owner: Owner) -> bytes | None:
        """None as for `note`."""
        return await self._values.get(self._contents, id, owner)

    async def delete(self, id: str, owner: Owner) -> bool:
        """Whether there was one."""
        note = await self.note(id, owner)
        for kind in (self._contents, self._notes):
            await self._values.delete(kind, id, owner)
        return note is not None

    async def ids(self, owner: Owner) -> Sequence[str]:
        """The tenant's own, the newest first. Of some the time may be over."""
        return [listed.id for listed in await self._values.listed(self._notes, owner)]
