"""What painted images look like over HTTP: one whole body, or events. Encoding happens off the event loop. Knows no
requests."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.context import RequestContext
from pipelines.ingress.images.image_store import ImageStore
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.request.whole_answer import base64_pieces, listed
from pipelines.ingress.schemas.images import (
    CompletedEvent,
    EventTypes,
    ImageEntry,
    ImageFormat,
    ImageNote,
    ImagesAnswer,
    ImageUsage,
    NoTokens,
    PartialImageEvent,
    ProgressEvent,
)
from pipelines.jobs import PaintEvent, PaintImage, PaintProgress
from pipelines.threads import Threads
from stages.concurrency.together import together
from stages.contract.errors import StageFailed
from stages.images.image import encode

FILES_PATH = "v1/images/files/"
NO_USAGE = ImageUsage(
    input_tokens=0, input_tokens_details=NoTokens(image_tokens=0, text_tokens=0), output_tokens=0, total_tokens=0
)


@dataclass(frozen=True, slots=True)
class ImageOutput:
    """`quality` (1-100) is for jpeg and webp; `events`: what the events of a stream are called."""

    format: ImageFormat
    quality: int
    as_url: bool
    events: EventTypes


class ImageAnswer:
    """`base_url` ends with a slash; addresses of kept images begin with it."""

    def __init__(
        self,
        output: ImageOutput,
        context: RequestContext,
        receipts: ReceiptPrinter,
        store: ImageStore,
        threads: Threads,
        *,
        base_url: str,
    ) -> None:
        self._output, self._context, self._receipts = output, context, receipts
        self._store, self._threads, self._base_url = store, threads, base_url
        self._created = int(context.created)

    async def whole(self, images: Sequence[PaintImage]) -> Sequence[bytes]:
        """The body, as JSON in pieces."""
        entries = await together(map(self._entry, images))
        before, after = ImagesAnswer(
            created=self._created,
            background="opaque",
            output_format=self._output.format,
            size=_size(images[0]),
            data=[],
            triptych=self._receipts.receipt(self._context),
        ).around("data")
        return [before, *listed(entries), after]

    async def frame(self, image: PaintImage, *, last: bool) -> bytes:
        """The event of one image, finished or not. The last one carries the receipt."""
        return await self._threads.painting.run(_num_pixels(image), self._image_frame, image, last)

    def _image_frame(self, image: PaintImage, last: bool) -> bytes:
        event = self._partial(image) if image.partial is not None else self._completed(image, last)
        before, after = event.around("b64_json", '""')
        return data_frame(before, *base64_pieces(self._encode(image)), after, event=event.type)

    async def _entry(self, image: PaintImage) -> Sequence[bytes]:
        """Its JSON, in pieces."""
        note, painting = ImageNote(index=image.index, seed=image.seed), self._threads.painting
        if not self._output.as_url:
            return await painting.run(_num_pixels(image), self._in_base64, image, note)
        data = await painting.run(_num_pixels(image), self._encode, image)
        key = await self._store.put(data, f"image/{self._output.format}", tenant=self._context.tenant)
        return [ImageEntry(url=f"{self._base_url}{FILES_PATH}{key}", triptych=note).to_json()]

    def _in_base64(self, image: PaintImage, note: ImageNote) -> Sequence[bytes]:
        before, after = ImageEntry(b64_json="", triptych=note).around("b64_json", '""')
        return [before, *base64_pieces(self._encode(image)), after]

    def _partial(self, image: PaintImage) -> PartialImageEvent:
        """Without the image itself; so is `_completed`."""
        return PartialImageEvent(
            type=self._output.events.partial,
            b64_json="",
            background="opaque",
            created_at=self._created,
            output_format=self._output.format,
            partial_image_index=image.partial or 0,
            quality="auto",
            size=_size(image),
            triptych=ImageNote(index=image.index, seed=image.seed),
        )

    def _completed(self, image: PaintImage, last: bool) -> CompletedEvent:
        note = {"receipt": self._receipts.receipt(self._context)} if last else {}
        return CompletedEvent(
            type=self._output.events.completed,
            b64_json="",
            background="opaque",
            created_at=self._created,
            output_format=self._output.format,
            quality="auto",
            size=_size(image),
            usage=NO_USAGE,
            triptych=ImageNote(index=image.index, seed=image.seed, **note),
        )

    def _encode(self, image: PaintImage) -> bytes:
        return encode(image.pixels, self._output.format, quality=self._output.quality)


class ImageStreamWriter:
    """Events into frames. The last finished image waits for the end of the stream, because it carries the receipt."""

    def __init__(self, answer: ImageAnswer, *, num_images: int, progress: bool) -> None:
        self._answer, self._num_missing, self._progress = answer, num_images, progress
        self._held: PaintImage | None = None

    async def frame(self, event: PaintEvent) -> bytes:
        if isinstance(event, PaintProgress):
            return self._progress_frame(event) if self._progress else b""
        if event.partial is not None:
            return await self._answer.frame(event, last=False)
        self._num_missing -= 1
        if self._num_missing > 0:
            return await self._answer.frame(event, last=False)
        self._held = event
        return b""

    async def end(self) -> bytes:
        if self._held is None or self._num_missing:
            raise StageFailed("the painting ended before all of its images were finished")
        return await self._answer.frame(self._held, last=True)

    def _progress_frame(self, event: PaintProgress) -> bytes:
        body = ProgressEvent(type="triptych.progress", index=event.index, step=event.step, total=event.total)
        return data_frame(body.to_json(), event=body.type)


def _num_pixels(image: PaintImage) -> int:
    height, width = image.pixels.shape[:2]
    return height * width


def _size(image: PaintImage) -> str:
    height, width = image.pixels.shape[:2]
    return f"{width}x{height}"
