"""/v1/batches: offline work at low priority. Knows no line of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from pipelines.ingress.kept.files import KeptFiles
from pipelines.ingress.kept.kept_values import KeptFull, Owner, new_id
from pipelines.ingress.kept.work import KeptWork
from pipelines.ingress.kept.work_state import Status, WorkState
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.errors import NotKept, json_response, shown_address
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.batches.pages import page_of
from pipelines.ingress.routes.batches.worker import BatchWorker
from pipelines.ingress.schemas.batches import BatchAnswer, BatchBody, BatchCounts, BatchErrors, BatchList
from stages.contract.errors import InvalidRequest

GRACE_S = 60.0
"""Within which a batch whose time is up ends by itself, and writes down what it has."""
DEFAULT_LISTED, MAX_LISTED = 20, 100
UNITS_S = {"m": 60, "h": 3600}
NO_COUNTS = {"total": 0, "completed": 0, "failed": 0}


@dataclass(frozen=True, slots=True)
class BatchesRoute:
    arrival: Arrival
    settings: IngressSettings
    files: KeptFiles
    work: KeptWork
    worker: BatchWorker

    async def create(self, request: Request) -> Response:
        context = self.arrival.open(request)
        body = await self.arrival.read(request, BatchBody, context)
        window_s = self._window_s(body.completion_window)
        if await self.files.note(body.input_file_id, context) is None:
            raise InvalidRequest(
                f"input_file_id {body.input_file_id[:100]!r} is no file; give one with POST /v1/files", param="input_file_id"
            )
        about = {**body.model_dump(exclude={"triptych"}), "until": time.time() + window_s}
        state = await self.work.submit(new_id("batch_"), b"{}", context, for_s=window_s + GRACE_S, about=about)
        return json_response(batch_told(state).to_json())

    async def one(self, request: Request, id: str) -> Response:
        return json_response((await self._found(id, self.arrival.identify(request))).to_json())

    async def cancel(self, request: Request, id: str) -> Response:
        owner = self.arrival.identify(request)
        if await self.work.cancel(id, owner) is None:
            raise _none(id)
        return json_response((await self._found(id, owner)).to_json())

    async def listed(self, request: Request) -> Response:
        owner = self.arrival.identify(request)
        page = page_of(request.query_params, default=DEFAULT_LISTED, most=MAX_LISTED)
        states = list(await self.work.listed(owner, after=page.after, limit=page.limit + 1))
        data = [await self._whole(state, owner) for state in states[: page.limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        more = len(states) > page.limit
        return json_response(BatchList(object="list", data=data, first_id=first, last_id=last, has_more=more).to_json())

    async def _found(self, id: str, owner: Owner) -> BatchAnswer:
        state = await self.work.state(id, owner)
        if state is None:
            raise _none(id)
        return await self._whole(state, owner)

    async def _whole(self, state: WorkState, owner: Owner) -> BatchAnswer:
        """With the files of one that was called off, which are written for whoever asks first; without them for as long as the tenant has
        no room for them."""
        if state.status is not Status.CANCELLED:
            return batch_told(state)
        try:
            return batch_told(state, await self.worker.end_early(state.id, state.about, owner))
        except KeptFull:
            return batch_told(state)

    def _window_s(self, given: str) -> float:
        """Raises `InvalidRequest`."""
        window_s, limit = int(given[:-1]) * UNITS_S[given[-1]], self.settings.kept.batch_s
        if window_s > limit:
            raise InvalidRequest(
                f"completion_window {given} is over the limit of {limit / 3600:g}h (ingress.kept.batch_s)",
                param="completion_window",
            )
        return float(window_s)


def batch_told(state: WorkState, ended: Mapping[str, Any] | None = None) -> BatchAnswer:
    """What a client is told. `ended`: what came of one that was called off."""
    told, about = state.told if ended is None else ended, state.about
    faults = list(told.get("faults") or ([_fault(state.error)] if state.error else []))
    status = _status(state, told)
    at = int(state.ended) if state.ended is not None else None
    return BatchAnswer(
        id=state.id,
        object="batch",
        endpoint=about["endpoint"],
        input_file_id=about["input_file_id"],
        completion_window=about["completion_window"],
        status=status,
        errors=BatchErrors(object="list", data=faults) if faults else None,
        output_file_id=told.get("output_file_id"),
        error_file_id=told.get("error_file_id"),
        created_at=int(state.created),
        in_progress_at=int(state.started) if state.started is not None else None,
        expires_at=int(about["until"]),
        completed_at=at if status == "completed" else None,
        failed_at=at if status == "failed" else None,
        expired_at=at if status == "expired" else None,
        cancelled_at=at if status == "cancelled" else None,
        request_counts=BatchCounts(**told.get("counts", NO_COUNTS)),
        metadata=about.get("metadata"),
    )


def _status(state: WorkState, told: Mapping[str, Any]) -> Any:
    match state.status:
        case Status.QUEUED:
            return "in_progress" if state.tries else "validating"
        case Status.RUNNING:
            return "in_progress"
        case Status.DONE:
            return "failed" if told.get("faults") else "expired" if told.get("is_late") else "completed"
        case Status.CANCELLED:
            return "cancelled"
        case Status.FAILED:
            return "failed"


def _fault(error: Mapping[str, Any]) -> dict[str, Any]:
    return {"code": error.get("code"), "message": error.get("message"), "line": None, "param": error.get("param")}


def _none(id: str) -> NotKept:
    return NotKept(f"there is no batch {shown_address(id)} of yours, or its time is over")
