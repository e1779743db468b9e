"""From the `image_url` of a request, or a file in it, to an encoded image within the limits.

Decides which addresses are images at all: data URLs, and http(s) where the configuration enables it
(`pipelines/ingress/images/fetch.py`).
What costs CPU time worth mentioning (base64, reading headers) happens off the event loop. Decodes no pixels; where few of them are wanted,
has them decoded (`pipelines/ingress/images/image_detail.py`).
"""

import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.ingress.images.fetch import Fetcher, FetchPolicy, Held
from pipelines.ingress.images.image_detail import LowDetail
from pipelines.ingress.images.names import NameLookUps
from pipelines.jobs import ImagePart
from pipelines.settings.derived import request_pixels
from pipelines.settings.schema.config import LimitsConfig
from pipelines.threads import Threads
from stages.concurrency.together import together
from stages.contract.errors import InvalidRequest, TooLarge
from stages.images.image import inspect

_MAX_DATA_HEADER = 256
_BASE64_PIECE = 1 << 18  # a call holds the interpreter's lock; a multiple of 4
_DATA_HEADER = re.compile(r"data:image/[a-z0-9.+-]+(;[a-z0-9-]+=[^;,]*)*;base64", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WantedImage:
    """`param`: the request's field, for messages."""

    url: str
    param: str
    low_detail: bool = False


class ImageSource:
    """Where a request's images come from, within `limits.image_bytes` (encoded) and `limits.image_pixels` (width x height) each, and
    `limits.request_pixels` in all."""

    def __init__(self, limits: LimitsConfig, fetch: FetchPolicy, threads: Threads, *, held: Held | None = None) -> None:
        """`held`: is told what arrives of fetched images."""
        self._limits, self._threads = limits, threads
        self._low_detail = LowDetail(threads.decoding, max_pixels=limits.image_pixels)
        self._fetcher = Fetcher(fetch, limits.image_bytes, resolver=NameLookUps(threads.names), held=held)

    async def load(self, wanted: Sequence[WantedImage]) -> Sequence[ImagePart]:
        """The images of one request, in order. Raises `InvalidRequest` or `TooLarge`, naming the `param` at fault; nothing is decoded
        before all are known to be within the limits. What an address says of its media type is only a hint."""
        parts = await together(self._loaded(image.url, image.param) for image in wanted)
        self._check_sum(parts)
        return await together(self._as_wanted(part, image) for part, image in zip(parts, wanted, strict=True))

    async def _as_wanted(self, part: ImagePart, image: WantedImage) -> ImagePart:
        return await self._low_detail.shrunk(part) if image.low_detail else part

    def _check_sum(self, parts: Sequence[ImagePart]) -> None:
        most, num = request_pixels(self._limits), 0
        for part in parts:
            num += part.pixels
            if num > most:
                raise TooLarge(
                    f"{part.param}: with this image the request's have {num} pixels in all; at most {most} (limits.request_pixels)",
                    param=part.param,
                )

    async def _loaded(self, url: str, param: str) -> ImagePart:
        scheme = url[:_MAX_DATA_HEADER].partition(":")[0].lower()
        if scheme == "data":
            return await self._threads.images.run(len(url), self._from_data_url, url, param)
        if scheme in ("http", "https"):
            return await self.take(await self._fetcher.fetch(url, param=param), param=param)
        raise InvalidRequest(
            f"{param}: {url[:40]!r} is neither a data: URL (data:image/png;base64,...) nor an http(s) address", param=param
        )

    async def take(self, data: bytes, *, param: str) -> ImagePart:
        """An image that came as a file, or was fetched. Raises as `load` does."""
        return await self._threads.images.run(len(data), self._part, data, param)

    def _from_data_url(self, url: str, param: str) -> ImagePart:
        comma = url.find(",", 0, _MAX_DATA_HEADER)
        if comma < 0 or not _DATA_HEADER.fullmatch(url, 0, comma):
            raise InvalidRequest(f"{param}: {url[:40]!r} is not of the form data:image/<type>;base64,<bytes>", param=param)
        encoded = len(url) - comma - 1
        at_least = encoded // 4 * 3 - 2
        if at_least > self._limits.image_bytes:
            raise TooLarge(
                f"{param}: the image has about {at_least} bytes; at most {self._limits.image_bytes} (limits.image_bytes)",
                param=param,
            )
        try:
            data = _from_base64(url, comma + 1)
        except ValueError as error:
            raise InvalidRequest(f"{param}: the data: URL is not valid base64: {error}", param=param) from error
        return self._part(data, param)

    def _part(self, data: bytes, param: str) -> ImagePart:
        limits = self._limits
        info = inspect(data, max_bytes=limits.image_bytes, max_pixels=limits.image_pixels, param=param)
        return ImagePart(data, info.width, info.height, param)


def _from_base64(text: str, start: int) -> bytes:
    """What follows `start`. Raises `ValueError`."""
    data = bytearray()
    for at in range(start, len(text), _BASE64_PIECE):
        if len(data) * 4 != (at - start) * 3:
            raise ValueError("there is more behind its end")
        data += binascii.a2b_base64(text[at : at + _BASE64_PIECE], strict_mode=True)
    return bytes(data)
