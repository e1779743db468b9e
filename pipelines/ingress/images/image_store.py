"""Finished images, kept for a while under addresses that cannot be guessed (`response_format: "url"`).

Decides what an address is good for: whoever has it sees the image, and nobody else finds it. Where they are kept, and how much of one
tenant's, is `pipelines/ingress/kept/kept_values.py`. Knows no HTTP.
"""

import secrets
from dataclasses import dataclass

from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner


@dataclass(frozen=True, slots=True)
class KeptImage:
    data: bytes
    media_type: str


class ImageStore:
    """On one event loop. `server`: whose the images are, since an address asks nobody for a key."""

    def __init__(self, values: KeptValues, server: Owner, *, keep_s: float, tenant_bytes: int) -> None:
        self._values, self._server = values, server
        self._kind = Kind(
            "image",
            "images",
            keep_s,
            max_bytes=tenant_bytes,
            max_items=10_000,
            makes_room=True,
            setting="ingress.kept.image_bytes",
        )

    async def put(self, data: bytes, media_type: str, *, tenant: str) -> str:
        """The image's key: 256 random bits. The newest image is always kept, whatever its size; the tenant's oldest make room. Raises
        `Unavailable`."""
        key = secrets.token_urlsafe(32)
        head = media_type.encode()
        await self._values.put(self._kind, key, bytes([len(head)]) + head + data, self._server, charged_to=tenant)
        return key

    async def get(self, key: str) -> KeptImage | None:
        """None where it is unknown or its time is over. Raises `Unavailable`."""
        found = await self._values.get(self._kind, key, self._server)
        if found is None:
            return None
        start = 1 + found[0]
        return KeptImage(found[start:], found[1:start].decode())
