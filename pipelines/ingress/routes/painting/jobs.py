"""/v1/images/jobs: a painting or an edit that is submitted, asked after, called off and fetched, by connections that each are short.

Decides what a client is told of a job, and when it is expected to be done. Who does it is `pipelines/ingress/kept/work.py`, how
`job_worker.py`. Knows no stages.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request, Response

from cache.keys import digest
from pipelines.context import RequestContext
from pipelines.ingress.body.bodies import is_json, shown
from pipelines.ingress.images.image_url import ImageSource
from pipelines.ingress.kept.kept_values import KeptValues, Kind, Owner, new_id
from pipelines.ingress.kept.work import KeptWork
from pipelines.ingress.kept.work_state import Status, WorkState
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.disconnect import unless_gone
from pipelines.ingress.request.errors import NotDone, NotKept, json_response
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.request.whole_answer import WholeAnswer, base64_pieces, listed
from pipelines.ingress.routes.painting.asked import (
    MAX_FILES,
    Given,
    addresses,
    files_of,
    given_image,
    image_output,
    paint_job,
    painter_of,
)
from pipelines.ingress.routes.painting.job_request import JobRequest
from pipelines.ingress.routes.painting.job_worker import image_id
from pipelines.ingress.schemas.image_jobs import DeletedJob, ImageJob, ImageJobList, JobBody, JobForm, JobStatus
from pipelines.ingress.schemas.images import EDIT_EVENTS, GENERATION_EVENTS, ImageEntry, ImageNote, ImagesAnswer
from pipelines.ingress.schemas.receipt import Receipt
from stages.contract.errors import InvalidRequest

PREFIX = "imgjob-"
PATH = "v1/images/jobs/"
IDEMPOTENCY = "idempotency-key"
MAX_LISTED = 100
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_NUMBER = re.compile(r"[0-9]{1,6}")
_TOLD: dict[Status, JobStatus] = {
    Status.QUEUED: "queued",
    Status.RUNNING: "in_progress",
    Status.DONE: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class JobsRoute:
    """`kept_images`: what is kept of jobs' images."""

    arrival: Arrival
    settings: IngressSettings
    images: ImageSource
    work: KeptWork
    values: KeptValues
    kept_images: Kind

    async def submit(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body, given = await self._asked(request, context)
        id, state = await unless_gone(request.receive, context, self._submitted(request, context, body, given))
        address = f"{self.settings.address.base(request)}{PATH}{id}"
        return json_response(self._told(state, request).to_json(), status=202, headers={"location": address})

    async def _asked(self, request: Request, context: RequestContext) -> tuple[JobForm, Given | None]:
        if is_json(request):
            body = await self.arrival.read(request, JobBody, context)
            if body.images is None and (body.mask is not None or body.strength is not None):
                raise InvalidRequest(
                    "images is required where there is a mask or a strength: they are an edit's", param="images"
                )
            return body, addresses(body.images, body.mask) if body.images is not None else None
        form = await self.arrival.read_form(request, JobForm, context, files={"image": MAX_FILES, "mask": 1})
        return form.body, files_of(form.files)

    async def _submitted(
        self, request: Request, context: RequestContext, body: JobForm, given: Given | None
    ) -> tuple[str, WorkState]:
        if body.stream:
            raise InvalidRequest("stream: a job is asked after, and not streamed; leave it out", param="stream")
        init = await given_image(body, given, self.images, self.settings) if given is not None else None
        served = self.arrival.served(context.tenant)
        model = painter_of(body, served, edits=init is not None)
        job, output = paint_job(body, self.settings, init), image_output(body, EDIT_EVENTS if init else GENERATION_EVENTS)
        expected_s = await served.paint_pipeline(model).forecast(job, context)
        asked = JobRequest(
            model,
            job,
            output.format,
            output.quality,
            body.asked_priority() or 0,
            body.asked_as(),
            {note.field: note.text for note in context.notes},
        )
        id, size = _id(request, context), sum(len(one.data) for one in (init.image, init.mask) if one) if init else 0
        kept, named = await self.arrival.threads.digests.run(size, _kept_form, asked, context.asked_model)
        about = {
            "model": model,
            "kind": "generation" if init is None else "edit",
            "format": output.format,
            "expected_s": expected_s,
            "asked": named,
        }
        state = await self.work.submit(id, kept, context, for_s=self.settings.kept.job_s, about=about)
        if state.about.get("asked") != named:
            raise InvalidRequest(f"{IDEMPOTENCY} was given with another request before; give another", param=IDEMPOTENCY)
        return id, state

    async def listed(self, request: Request) -> Response:
        caller = self.arrival.identify(request)
        limit, after = _number(request, "limit", 20, MAX_LISTED), request.query_params.get("after")
        found = await self.work.listed(caller, after=after, limit=limit + 1)
        jobs = [self._told(state, request) for state in found[:limit]]
        ends = {"first_id": jobs[0].id if jobs else None, "last_id": jobs[-1].id if jobs else None}
        return json_response(ImageJobList(object="list", data=jobs, has_more=len(found) > limit, **ends).to_json())

    async def one(self, request: Request, id: str) -> Response:
        return json_response(self._told(await self._state(id, self.arrival.identify(request)), request).to_json())

    async def cancel(self, request: Request, id: str) -> Response:
        caller = self.arrival.identify(request)
        state = await self.work.cancel(id, caller)
        return json_response(self._told(self._known(state, id), request).to_json())

    async def delete(self, request: Request, id: str) -> Response:
        caller = self.arrival.identify(request)
        self._known(await self.work.forget(id, caller), id)
        return json_response(DeletedJob(id=id, object="image.job", deleted=True).to_json())

    async def content(self, request: Request, id: str) -> Response:
        """One of its images, as a file."""
        caller = self.arrival.identify(request)
        state = _done(await self._state(id, caller))
        index = _number(request, "index", 0, 10**6)
        (data,) = await self._images(state, [index], caller)
        return WholeAnswer([data], media_type=f"image/{state.about['format']}", headers={"cache-control": "private"})

    async def result(self, request: Request, id: str) -> Response:
        """What the route that it would have been asked at answers."""
        caller = self.arrival.identify(request)
        state = _done(await self._state(id, caller))
        notes = state.told["images"]
        images = await self._images(state, [note["index"] for note in notes], caller)
        return WholeAnswer(await self.arrival.threads.answers.run(_result, state, images))

    async def _images(self, state: WorkState, indexes: Sequence[int], owner: Owner) -> Sequence[bytes]:
        """Raises `NotKept` where one is gone, or never was."""
        found = []
        for index in indexes:
            data = await self.values.get(self.kept_images, image_id(state.id, index), owner)
            if data is None:
                raise NotKept(
                    f"image {index} of job {state.id} is not kept (any more): later ones have its room, or there is none"
                )
            found.append(data)
        return found

    async def _state(self, id: str, owner: Owner) -> WorkState:
        return self._known(await self.work.state(id, owner), id)

    def _known(self, state: WorkState | None, id: str) -> WorkState:
        if state is None:
            alone = (
                ""
                if self.work.survives
                else "; without cache.redis, each HTTP process knows its own jobs only, and they end with it"
            )
            raise NotKept(f"job {shown(id)} is not known: it was never submitted, is another's, or its time is over{alone}")
        return state

    def _told(self, state: WorkState, request: Request) -> ImageJob:
        about, told, base = state.about, state.told, self.settings.address.base(request)
        fields: dict[str, Any] = {
            "id": state.id,
            "object": "image.job",
            "kind": about["kind"],
            "model": about["model"],
            "status": _TOLD[state.status],
            "progress": _progress(state),
            "created_at": int(state.created),
            "started_at": None if state.started is None else int(state.started),
            "completed_at": None if state.ended is None else int(state.ended),
            "expires_at": int(state.until),
            "eta_s": _eta_s(state, time.time()),
            "output_format": about["format"],
            "survives": self.work.survives,
            "tries": state.tries,
            "images": [
                {**image, "url": f"{base}{PATH}{state.id}/content?index={image['index']}"} for image in told.get("images", ())
            ],
            "error": state.error,
        }
        if told.get("total"):
            fields["steps"] = {"done": told["done"], "total": told["total"]}
        return ImageJob.model_validate(fields)


def _kept_form(asked: JobRequest, named: str | None) -> tuple[bytes, str]:
    """And the digest of what was asked: of the model that the client has `named`, whoever is to paint it. Without a seed it gets one, so
    that whoever does it again paints the same."""
    plain, notes = asked.to_bytes(), {field: note for field, note in asked.notes.items() if field != "model"}
    of_all = digest(plain if named is None else replace(asked, model=named, notes=notes).to_bytes())
    if asked.job.seed is not None:
        return plain, of_all
    return replace(asked, job=replace(asked.job, seed=secrets.randbits(32))).to_bytes(), of_all


def _id(request: Request, context: RequestContext) -> str:
    """Under a client's key the same each time. Raises `InvalidRequest`."""
    key = request.headers.get(IDEMPOTENCY)
    if key is None:
        return new_id(PREFIX)
    if not _KEY.fullmatch(key):
        raise InvalidRequest(f"{IDEMPOTENCY} must be 1 to 200 letters without blanks (given: {shown(key)})", param=IDEMPOTENCY)
    named = hmac.new(context.salt.encode(), b"triptych job\0" + key.encode(), hashlib.sha256).hexdigest()
    return f"{PREFIX}{named[:48]}"


def _done(state: WorkState) -> WorkState:
    if state.status is not Status.DONE:
        raise NotDone(f"job {state.id} is {_TOLD[state.status]}; there are images once it is completed")
    return state


def _result(state: WorkState, images: Sequence[bytes]) -> Sequence[bytes]:
    """JSON, in pieces."""
    notes, entries = state.told["images"], []
    for note, data in zip(notes, images, strict=True):
        entry = ImageEntry(b64_json="", triptych=ImageNote(index=note["index"], seed=note["seed"]))
        before, after = entry.around("b64_json", '""')
        entries.append([before, *base64_pieces(data), after])
    before, after = ImagesAnswer(
        created=int(state.created),
        background="opaque",
        output_format=state.about["format"],
        size=notes[0]["size"],
        data=[],
        triptych=Receipt.model_validate(state.told["receipt"]),
    ).around("data")
    return [before, *listed(entries), after]


def _progress(state: WorkState) -> int:
    """Percent; what is not over is never at 100."""
    if state.status is Status.DONE:
        return 100
    done, total = state.told.get("done", 0), state.told.get("total", 0)
    return min(99, 100 * done // total) if total else 0


def _eta_s(state: WorkState, now: float) -> float | None:
    """By the pace of its steps, once there are two; before that by what was expected when it was submitted."""
    if state.status.is_over:
        return None
    told, expected_s = state.told, state.about.get("expected_s")
    if state.status is Status.RUNNING and told.get("done", 0) > 1:
        pace_s = (told["at"] - told["first_at"]) / (told["done"] - 1)
        return round(max(0.0, pace_s * (told["total"] - told["done"]) - (now - told["at"])), 1)
    return None if expected_s is None else round(max(0.0, state.created + expected_s - now), 1)


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or int(text) > most:
        raise InvalidRequest(f"{name} must be a number up to {most} (given: {shown(text)})", param=name)
    return int(text)
