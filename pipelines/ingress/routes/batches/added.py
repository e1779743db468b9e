"""Which routes of files and batches there are, and what they promise in /openapi.json."""

from fastapi import FastAPI, Request, Response

from pipelines.ingress.routes.api_description import POST_ERRORS, asking, error_answers, operation
from pipelines.ingress.routes.batches.batches import BatchesRoute
from pipelines.ingress.routes.batches.files import FilesRoute
from pipelines.ingress.schemas.batches import BatchAnswer, BatchBody, BatchList, FileAnswer, FileBody, FileDeleted, FileList


def add_files(app: FastAPI, route: FilesRoute, *, keyed: bool) -> None:
    @app.post(
        "/v1/files",
        response_model=None,
        responses={200: {"model": FileAnswer}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(None, route.arrival.settings, form=FileBody),
    )
    async def upload(request: Request) -> Response:
        """Keeps a file of requests for a batch, for a while."""
        return await route.upload(request)

    answers = error_answers(401, 403, 404, 503)

    @app.get(
        "/v1/files", response_model=None, responses={200: {"model": FileList}, **answers}, openapi_extra=operation(keyed=keyed)
    )
    async def files(request: Request) -> Response:
        """The tenant's files, the newest first."""
        return await route.listed(request)

    @app.get(
        "/v1/files/{id}",
        response_model=None,
        responses={200: {"model": FileAnswer}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def file(request: Request, id: str) -> Response:
        return await route.one(request, id)

    @app.get(
        "/v1/files/{id}/content",
        response_class=Response,
        responses={200: {"content": {"application/octet-stream": {}}}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def file_content(request: Request, id: str) -> Response:
        return await route.content(request, id)

    @app.delete(
        "/v1/files/{id}",
        response_model=None,
        responses={200: {"model": FileDeleted}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def delete_file(request: Request, id: str) -> Response:
        return await route.delete(request, id)


def add_batches(app: FastAPI, route: BatchesRoute, *, keyed: bool) -> None:
    @app.post(
        "/v1/batches",
        response_model=None,
        responses={200: {"model": BatchAnswer}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(BatchBody, route.settings),
    )
    async def create_batch(request: Request) -> Response:
        """Has the requests of a file answered when there is nothing more urgent to do."""
        return await route.create(request)

    answers = error_answers(401, 403, 404, 503)

    @app.get(
        "/v1/batches",
        response_model=None,
        responses={200: {"model": BatchList}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def batches(request: Request) -> Response:
        """The tenant's batches, the newest first."""
        return await route.listed(request)

    @app.get(
        "/v1/batches/{id}",
        response_model=None,
        responses={200: {"model": BatchAnswer}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def batch(request: Request, id: str) -> Response:
        """How far it is, and where its answers are."""
        return await route.one(request, id)

    @app.post(
        "/v1/batches/{id}/cancel",
        response_model=None,
        responses={200: {"model": BatchAnswer}, **answers},
        openapi_extra=operation(keyed=keyed),
    )
    async def cancel_batch(request: Request, id: str) -> Response:
        """Asks none of its requests any more. What was answered is kept."""
        return await route.cancel(request, id)
