"""Which addresses jobs have, and what they promise in /openapi.json; and how the jobs of this process are done by the newest settings. What
each does is `jobs.py`."""

from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response

from pipelines.ingress.images.image_url import ImageSource
from pipelines.ingress.kept.kept_values import KeptValues, Kind
from pipelines.ingress.kept.work import KeptWork, WorkKinds
from pipelines.ingress.request.arrival import Arrival
from pipelines.ingress.request.receipts import ReceiptPrinter
from pipelines.ingress.routes.api_description import POST_ERRORS, asking, error_answers, operation
from pipelines.ingress.routes.painting.job_worker import JobWorker
from pipelines.ingress.routes.painting.jobs import JobsRoute
from pipelines.ingress.schemas.image_jobs import DeletedJob, ImageJob, ImageJobList, JobBody, JobForm
from pipelines.ingress.schemas.images import ImagesAnswer

ONE = "/v1/images/jobs/{job_id}"
FILES: dict[str, Any] = {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")}


def image_jobs(
    work: KeptWork, values: KeptValues, arrival: Arrival, images: ImageSource, receipts: ReceiptPrinter
) -> JobsRoute:
    """The route, having told the jobs of this process how they are done from now on."""
    limits = arrival.settings.kept
    kind = partial(Kind, keep_s=limits.job_s, max_bytes=limits.job_bytes, max_items=limits.jobs)
    results = Kind("job-image", "images of jobs", limits.job_s, limits.job_bytes, 10_000, makes_room=True)
    work.kinds = WorkKinds(
        given=kind("job-given", "requests of jobs", setting="ingress.kept.job_bytes"),
        state=kind("job", "jobs", setting="ingress.kept.jobs"),
    )
    work.worker, work.max_running = JobWorker(arrival, receipts, arrival.threads, values, results), limits.running_jobs
    return JobsRoute(arrival, arrival.settings, images, work, values, results)


def add_image_jobs(app: FastAPI, route: JobsRoute, *, keyed: bool) -> None:
    extra: dict[str, Any] = {"response_model": None, "openapi_extra": operation(keyed=keyed)}
    told: dict[str, Any] = {"responses": {200: {"model": ImageJob}, **error_answers(401, 403, 404, 503)}, **extra}
    _add_beginning(app, route, extra)
    _add_results(app, route, keyed=keyed)

    @app.get(ONE, **told)
    async def image_job(request: Request, job_id: str) -> Response:
        """How far a job is, and when it is expected to be done."""
        return await route.one(request, job_id)

    @app.post(f"{ONE}/cancel", **told)
    async def cancel_image_job(request: Request, job_id: str) -> Response:
        """Calls a job off; one that is over stays as it is."""
        return await route.cancel(request, job_id)

    @app.delete(ONE, responses={200: {"model": DeletedJob}, **error_answers(401, 403, 404, 503)}, **extra)
    async def delete_image_job(request: Request, job_id: str) -> Response:
        """Calls a job off, and keeps nothing of it."""
        return await route.delete(request, job_id)


def _add_beginning(app: FastAPI, route: JobsRoute, extra: dict[str, Any]) -> None:
    @app.post(
        "/v1/images/jobs",
        response_model=None,
        status_code=202,
        responses={202: {"model": ImageJob}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(JobBody, route.settings, form=JobForm),
    )
    async def submit_image_job(request: Request) -> Response:
        """Takes a painting, or an edit, as a job: to be asked after, and fetched when it is completed. With an `Idempotency-Key` the same
        request is one job, however often it is sent."""
        return await route.submit(request)

    @app.get("/v1/images/jobs", responses={200: {"model": ImageJobList}, **error_answers(400, 401, 403, 503)}, **extra)
    async def image_jobs_listed(request: Request) -> Response:
        """One's own jobs, the newest first (`limit`, `after`)."""
        return await route.listed(request)


def _add_results(app: FastAPI, route: JobsRoute, *, keyed: bool) -> None:
    @app.get(
        f"{ONE}/content",
        response_class=Response,
        responses={200: {"content": FILES}, **error_answers(400, 401, 403, 404, 409, 503)},
        openapi_extra=operation(keyed=keyed),
    )
    async def image_job_content(request: Request, job_id: str) -> Response:
        """One image of a completed job (`index`), as a file."""
        return await route.content(request, job_id)

    @app.get(
        f"{ONE}/result",
        response_model=None,
        responses={200: {"model": ImagesAnswer}, **error_answers(401, 403, 404, 409, 503)},
        openapi_extra=operation(keyed=keyed),
    )
    async def image_job_result(request: Request, job_id: str) -> Response:
        """All images of a completed job, as the route answers that doesn't make jobs."""
        return await route.result(request, job_id)
