"""From the `image_url` of a request, or a file in it, to an encoded image within the limits.

Decides which addresses are images at all: data URLs, and http(s) where the configuration enables it
(`pipelines/ingress/images/fetch.py`).
What costs CPU time worth mentioning (base64, reading headers) happens off the event loop. Decodes no pixels; where few of them are wanted,
has them decoded (`pipelines/ingress/images/image_detail.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.ingress.images.data_url import NoDataUrl, TooLong, from_data_url
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

_MAX_SCHEME = 16
_DATA = b"data:"


@dataclass(frozen=True, slots=True)
class WantedImage:
    """`param`: the request's field, for messages."""

    url: str
    param: str
    low_detail: bool = False


@dataclass(frozen=True, slots=True)
class GivenFile:
    """An image that came as a file, or a text in its place that is a data: URL. `param`: the form's field."""

    data: bytes = field(repr=False)
    param: str


class ImageSource:
    """Where a request's images come from, within `limits.image_bytes` (encoded) and `limits.image_pixels` (width x height) each, and
    `limits.request_pixels` in all."""

    def __init__(self, limits: LimitsConfig, fetch: FetchPolicy, threads: Threads, *, held: Held | None = None) -> None:
        """`held`: is told what arrives of fetched images."""
        self._limits, self._threads = limits, threads
        self._low_detail = LowDetail(threads.decoding, max_pixels=limits.image_pixels)
        self._fetcher = Fetcher(fetch, limits.image_bytes, resolver=NameLookUps(threads.names), held=held)

    async def load(self, wanted: Sequence[WantedImage | GivenFile]) -> Sequence[ImagePart]:
        """The images of one request, in order. Raises `InvalidRequest` or `TooLarge`, naming the `param` at fault; nothing is decoded
        before all are known to be within the limits. What an address says of its media type is only a hint."""
        parts = await together(map(self._taken, wanted))
        self._check_sum(parts)
        return await together(self._as_wanted(part, image) for part, image in zip(parts, wanted, strict=True))

    async def _taken(self, image: WantedImage | GivenFile) -> ImagePart:
        if isinstance(image, WantedImage):
            return await self._loaded(image.url, image.param)
        if image.data[: len(_DATA)].lower() == _DATA:
            return await self._loaded(image.data.decode("latin-1"), image.param)
        return await self.take(image.data, param=image.param)

    async def _as_wanted(self, part: ImagePart, image: WantedImage | GivenFile) -> ImagePart:
        return await self._low_detail.shrunk(part) if isinstance(image, WantedImage) and image.low_detail else part

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
        scheme = url[:_MAX_SCHEME].partition(":")[0].lower()
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
        """Of base64 alone, in the forms that clients send it (`data_url.py`)."""
        try:
            data = from_data_url(url, max_bytes=self._limits.image_bytes)
        except NoDataUrl as error:
            raise InvalidRequest(f"{param}: {url[:40]!r} {error}", param=param) from None
        except TooLong as error:
            raise TooLarge(
                f"{param}: the image has over {error} bytes; at most {self._limits.image_bytes} (limits.image_bytes)",
                param=param,
            ) from None
        return self._part(data, param)

    def _part(self, data: bytes, param: str) -> ImagePart:
        limits = self._limits
        info = inspect(data, max_bytes=limits.image_bytes, max_pixels=limits.image_pixels, param=param)
        return ImagePart(data, info.width, info.height, param)
