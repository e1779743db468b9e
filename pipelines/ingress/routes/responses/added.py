"""The route of conversations of items, and what it promises in /openapi.json."""

from fastapi import FastAPI, Request, Response

from pipelines.ingress.routes.api_description import EVENTS, POST_ERRORS, asking, error_answers
from pipelines.ingress.routes.responses.route import ResponsesRoute
from pipelines.ingress.schemas.responses import ResponsesAnswer, ResponsesBody


def add_responses(app: FastAPI, route: ResponsesRoute) -> None:
    @app.post(
        "/v1/responses",
        response_model=None,
        responses={200: {"model": ResponsesAnswer, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(ResponsesBody, route.settings),
    )
    async def responses(request: Request) -> Response:
        """Answers a conversation of items, whole or as server-sent events. Nothing is stored."""
        return await route(request)
