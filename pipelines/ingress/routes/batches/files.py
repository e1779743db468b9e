"""/v1/files: what a client gives for a batch, and gets of one. Knows no batches."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request, Response

from pipelines.ingress.kept.files import FileNote, KeptFiles
from pipelines.ingress.kept.kept_values import Owner, new_id
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.errors import NotKept, json_response, shown_address
from pipelines.ingress.request.whole_answer import WholeAnswer
from pipelines.ingress.routes.batches.pages import page_of
from pipelines.ingress.schemas.batches import FileAnswer, FileBody, FileDeleted, FileList
from stages.contract.errors import InvalidRequest

MAX_LISTED = 10_000
MAX_NAME_CHARS = 200


@dataclass(frozen=True, slots=True)
class FilesRoute:
    arrival: Arrival
    files: KeptFiles

    async def upload(self, request: Request) -> Response:
        context = self.arrival.open(request)
        form = await self.arrival.read_form(request, FileBody, context, files={"file": 1})
        if not form.files["file"]:
            raise InvalidRequest("file is required", param="file")
        name = form.filenames["file"][0][:MAX_NAME_CHARS] or "requests.jsonl"
        note = await self.files.put(new_id("file-"), name, form.body.purpose, form.files["file"][0], context)
        return json_response(_told(note).to_json())

    async def listed(self, request: Request) -> Response:
        owner = self.arrival.identify(request)
        purpose = request.query_params.get("purpose")
        notes = [note for note in await self._notes(owner) if purpose in (None, note.purpose)]
        if request.query_params.get("order") == "asc":
            notes.reverse()
        by_id = {note.id: note for note in notes}
        shown, has_more = page_of(request.query_params, default=MAX_LISTED, most=MAX_LISTED).of(list(by_id))
        data = [_told(by_id[id]) for id in shown]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(FileList(object="list", data=data, first_id=first, last_id=last, has_more=has_more).to_json())

    async def one(self, request: Request, id: str) -> Response:
        note = await self.files.note(id, self.arrival.identify(request))
        if note is None:
            raise _none(id)
        return json_response(_told(note).to_json())

    async def content(self, request: Request, id: str) -> Response:
        content = await self.files.content(id, self.arrival.identify(request))
        if content is None:
            raise _none(id)
        return WholeAnswer([content], media_type="application/octet-stream")

    async def delete(self, request: Request, id: str) -> Response:
        if not await self.files.delete(id, self.arrival.identify(request)):
            raise _none(id)
        return json_response(FileDeleted(id=id, object="file", deleted=True).to_json())

    async def _notes(self, owner: Owner) -> Sequence[FileNote]:
        found = [await self.files.note(id, owner) for id in await self.files.ids(owner)]
        return [note for note in found if note is not None]


def _told(note: FileNote) -> FileAnswer:
    return FileAnswer(
        id=note.id,
        object="file",
        bytes=note.num_bytes,
        created_at=int(note.created),
        expires_at=int(note.expires),
        filename=note.filename,
        purpose=note.purpose,
        status="processed",
    )


def _none(id: str) -> NotKept:
    return NotKept(f"there is no file {shown_address(id)} of yours, or its time is over")
