"""The routes of files and batches, put together: what is kept of them, for how long and how much, and who does them."""

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp

from pipelines.ingress.kept.files import KeptFiles
from pipelines.ingress.kept.kept_values import KeptValues, Kind
from pipelines.ingress.kept.work import KeptWork, WorkKinds
from pipelines.ingress.request import errors
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.routes.batches.batches import GRACE_S, BatchesRoute
from pipelines.ingress.routes.batches.files import FilesRoute
from pipelines.ingress.routes.batches.worker import BatchBounds, BatchWorker
from pipelines.threads import Threads
from stages.contract.errors import TriptychError

STATE_BYTES = 256 * 1024  # of one batch
MAX_PARTS = 100_000


def batch_routes(
    app: ASGIApp, arrival: Arrival, settings: IngressSettings, values: KeptValues, work: KeptWork, threads: Threads
) -> tuple[FilesRoute, BatchesRoute]:
    """`app`: what answers the lines, by the newest settings. `work` does by these settings from now on."""
    kept, limits = settings.kept, settings.limits
    keep_s = 2 * kept.batch_s + GRACE_S
    files = KeptFiles(values, keep_s=kept.file_s, max_bytes=kept.file_bytes, max_files=kept.files)
    worker = BatchWorker(
        app,
        values,
        files,
        Kind("batch-part", "answers of batches", keep_s, kept.file_bytes, MAX_PARTS, setting="ingress.kept.file_bytes"),
        threads,
        BatchBounds(kept.batch_requests, kept.batch_at_once, limits.max_request_s),
        told_error=told_error,
        owner_of=settings.key_ring().of,
    )
    room = kept.batches * STATE_BYTES
    work.kinds = WorkKinds(
        Kind("batch-given", "batches", keep_s, room, kept.batches, setting="ingress.kept.batches"),
        Kind("batch", "batches", keep_s, room, kept.batches, setting="ingress.kept.batches"),
    )
    work.worker, work.max_running = worker, kept.batch_at_once
    return FilesRoute(arrival, files), BatchesRoute(arrival, settings, files, work, worker)


def told_error(id: str, error: Exception) -> Mapping[str, Any]:
    """What a client is told of why a batch failed as a whole."""
    body = errors.told_error(error, id, {}) if isinstance(error, TriptychError) else errors.internal_error_body(id)
    return body.error.model_dump()
