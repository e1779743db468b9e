"""Which routes of plain texts there are, and what they promise in /openapi.json."""

from fastapi import FastAPI, Request, Response

from pipelines.ingress.request.errors import json_response
from pipelines.ingress.routes.api_description import EVENTS, POST_ERRORS, asking, error_answers, operation
from pipelines.ingress.routes.texts.completions import CompletionsRoute
from pipelines.ingress.routes.texts.tokens import TokensRoute
from pipelines.ingress.schemas.completions import Completion, CompletionsBody
from pipelines.ingress.schemas.tokens import DetokenizeBody, Detokenized, TokenizeBody, Tokenized, TokenizerInfo


def add_completions(app: FastAPI, route: CompletionsRoute) -> None:
    @app.post(
        "/v1/completions",
        response_model=None,
        responses={200: {"model": Completion, **EVENTS}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(CompletionsBody, route.settings),
    )
    async def completions(request: Request) -> Response:
        """Goes on with plain texts; whole, or as server-sent events. With `echo` and `logprobs` it tells of the texts' own tokens how
        likely they are."""
        return await route(request)


def add_tokens(app: FastAPI, route: TokensRoute) -> None:
    @app.post(
        "/tokenize",
        response_model=None,
        responses={200: {"model": Tokenized}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(TokenizeBody, route.settings),
    )
    async def tokenize(request: Request) -> Response:
        """The tokens of a text, or of the prompt that a conversation becomes."""
        return await route.tokenize(request)

    @app.post(
        "/detokenize",
        response_model=None,
        responses={200: {"model": Detokenized}, **error_answers(*POST_ERRORS)},
        openapi_extra=asking(DetokenizeBody, route.settings),
    )
    async def detokenize(request: Request) -> Response:
        """The text of some tokens."""
        return await route.detokenize(request)

    @app.get(
        "/tokenizer_info",
        response_model=None,
        responses={200: {"model": TokenizerInfo}, **error_answers(400, 401, 403, 404)},
        openapi_extra=operation(keyed=bool(route.settings.keys)),
    )
    async def tokenizer_info(request: Request, model: str = "") -> Response:
        """The tokenizer's own tokens, and the chat template, of a model; which need not be said where only one speaks."""
        return json_response(route.info(model, route.arrival.seen(request)).to_json())
