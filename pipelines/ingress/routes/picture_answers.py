"""What painted pictures look like over HTTP: one whole body, or events. Encoding happens off the event loop. Knows no
requests."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.context import RequestContext
from pipelines.ingress.pictures.picture_store import PictureStore
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.request.sse import data_frame
from pipelines.ingress.request.whole_answer import base64_pieces, listed
from pipelines.ingress.schemas.images import (
    CompletedEvent,
    EventTypes,
    ImagesAnswer,
    ImageUsage,
    NoTokens,
    PartialImageEvent,
    PictureEntry,
    PictureFormat,
    PictureNote,
    ProgressEvent,
)
from pipelines.jobs import PaintEvent, PaintPicture, PaintProgress
from pipelines.threads import Threads
from stages.contract.errors import StageFailed
from stages.host.together import together
from stages.pictures.picture import encode

FILES_PATH = "v1/images/files/"
NO_USAGE = ImageUsage(
    input_tokens=0, input_tokens_details=NoTokens(image_tokens=0, text_tokens=0), output_tokens=0, total_tokens=0
)


@dataclass(frozen=True, slots=True)
class PictureOutput:
    """`quality` (1-100) is for jpeg and webp; `events`: what the events of a stream are called."""

    format: PictureFormat
    quality: int
    as_url: bool
    events: EventTypes


class PictureAnswer:
    """`base_url` ends with a slash; addresses of kept pictures begin with it."""

    def __init__(
        self,
        output: PictureOutput,
        context: RequestContext,
        receipts: ReceiptPrinter,
        store: PictureStore,
        threads: Threads,
        *,
        base_url: str,
    ) -> None:
        self._output, self._context, self._receipts = output, context, receipts
        self._store, self._threads, self._base_url = store, threads, base_url
        self._created = int(context.created)

    async def whole(self, pictures: Sequence[PaintPicture]) -> Sequence[bytes]:
        """The body, as JSON in pieces."""
        painting = self._threads.painting
        entries = await together(painting.run(_num_pixels(picture), self._entry, picture) for picture in pictures)
        before, after = ImagesAnswer(
            created=self._created,
            background="opaque",
            output_format=self._output.format,
            size=_size(pictures[0]),
            data=[],
            triptych=self._receipts.receipt(self._context),
        ).around("data")
        return [before, *listed(entries), after]

    async def frame(self, picture: PaintPicture, *, last: bool) -> bytes:
        """The event of one picture, finished or not. The last one carries the receipt."""
        return await self._threads.painting.run(_num_pixels(picture), self._picture_frame, picture, last)

    def _picture_frame(self, picture: PaintPicture, last: bool) -> bytes:
        event = self._partial(picture) if picture.partial is not None else self._completed(picture, last)
        before, after = event.around("b64_json", '""')
        return data_frame(before, *base64_pieces(self._encode(picture)), after, event=event.type)

    def _entry(self, picture: PaintPicture) -> Sequence[bytes]:
        """Its JSON, in pieces."""
        data, note = self._encode(picture), PictureNote(index=picture.index, seed=picture.seed)
        if self._output.as_url:
            key = self._store.put(data, f"image/{self._output.format}", tenant=self._context.tenant)
            return [PictureEntry(url=f"{self._base_url}{FILES_PATH}{key}", triptych=note).to_json()]
        before, after = PictureEntry(b64_json="", triptych=note).around("b64_json", '""')
        return [before, *base64_pieces(data), after]

    def _partial(self, picture: PaintPicture) -> PartialImageEvent:
        """Without the picture itself; so is `_completed`."""
        return PartialImageEvent(
            type=self._output.events.partial,
            b64_json="",
            background="opaque",
            created_at=self._created,
            output_format=self._output.format,
            partial_image_index=picture.partial or 0,
            quality="auto",
            size=_size(picture),
            triptych=PictureNote(index=picture.index, seed=picture.seed),
        )

    def _completed(self, picture: PaintPicture, last: bool) -> CompletedEvent:
        note = {"receipt": self._receipts.receipt(self._context)} if last else {}
        return CompletedEvent(
            type=self._output.events.completed,
            b64_json="",
            background="opaque",
            created_at=self._created,
            output_format=self._output.format,
            quality="auto",
            size=_size(picture),
            usage=NO_USAGE,
            triptych=PictureNote(index=picture.index, seed=picture.seed, **note),
        )

    def _encode(self, picture: PaintPicture) -> bytes:
        return encode(picture.pixels, self._output.format, quality=self._output.quality)


class PictureStreamWriter:
    """Events into frames. The last finished picture waits for the end of the stream, because it carries the receipt."""

    def __init__(self, answer: PictureAnswer, *, num_pictures: int, progress: bool) -> None:
        self._answer, self._num_missing, self._progress = answer, num_pictures, progress
        self._held: PaintPicture | None = None

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
            raise StageFailed("the painting ended before all of its pictures were finished")
        return await self._answer.frame(self._held, last=True)

    def _progress_frame(self, event: PaintProgress) -> bytes:
        body = ProgressEvent(type="triptych.progress", index=event.index, step=event.step, total=event.total)
        return data_frame(body.to_json(), event=body.type)


def _num_pixels(picture: PaintPicture) -> int:
    height, width = picture.pixels.shape[:2]
    return height * width


def _size(picture: PaintPicture) -> str:
    height, width = picture.pixels.shape[:2]
    return f"{width}x{height}"
