"""What an error looks like over HTTP: one table from error class to status, OpenAI type and what a client can do, one body
shape, one set of headers.

Decides how the words of what is below become those of the request: the field that its client sent, the header that it can set.
Knows no routes. What the server is to blame for (500) tells the client a fixed sentence and the request's id, under which the log has
the error's own words: they may quote libraries, paths and addresses. So does an error that is not of Triptych's tree.

OpenAI's SDK asks again after 408, 409, 429 and any 5xx, twice by itself, unless `x-should-retry` says otherwise. Here that helps only
where the server was busy or away (429, 503): the same request would fail, or take its time, again (500, 504).
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pipelines.ingress.body.bodies import UnsupportedMediaType
from pipelines.ingress.proxy.proxy_headers import SHARED_HEADER
from pipelines.ingress.schemas.errors import ErrorBody, ErrorDetail
from stages.contract.errors import (
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ReplicaLost,
    StageFailed,
    TooLarge,
    TriptychError,
    Unavailable,
    UnknownModel,
)

SERVER_ERROR = 500
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is there to read it
_ORDINARY = re.compile(r"[A-Za-z0-9._:/@\-]{1,100}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """`retry`: None leaves it to the client; False tells OpenAI's SDK not to ask again. `hint`: what the client can do, behind
    the error's own message. `sentence`: what a client is told in place of that."""

    status: int
    type: str
    retry: bool | None = None
    hint: str = ""
    sentence: str = ""


def _at_fault(sentence: str) -> HttpAnswer:
    return HttpAnswer(SERVER_ERROR, "server_error", retry=False, sentence=sentence)


TABLE: dict[type[TriptychError], HttpAnswer] = {
    InvalidRequest: HttpAnswer(400, "invalid_request_error"),
    TooLarge: HttpAnswer(413, "invalid_request_error"),
    UnknownModel: HttpAnswer(404, "invalid_request_error"),
    NotAuthorized: HttpAnswer(401, "authentication_error"),
    Overloaded: HttpAnswer(429, "rate_limit_error"),
    Unavailable: HttpAnswer(503, "service_unavailable_error"),
    DeadlineExceeded: HttpAnswer(
        504,
        "timeout_error",
        retry=False,  # asking again would cost the same time again
        hint=f"; allow more with the header {SHARED_HEADER} (at most limits.max_request_s)",
    ),
    Cancelled: HttpAnswer(CLIENT_CLOSED_REQUEST, "cancelled_error", retry=False),
    ConfigurationError: _at_fault("the server is not configured for this request"),
    StageFailed: _at_fault("a stage failed on this request"),
    ReplicaLost: _at_fault("the processes that ran this request ended under it, and it is not tried again"),
    TriptychError: _at_fault("the server failed on this request"),
}


class Forbidden(TriptychError):
    """Whoever asks is not answered, whatever is asked (`local_caller.py`)."""

    code = "forbidden"


class NotKept(TriptychError):
    """What a client comes back for is not there."""

    code = "not_found"


class NotDone(TriptychError):
    """Nothing has come of it yet, or nothing ever will."""

    code = "not_completed"


TABLE[NotKept] = HttpAnswer(404, "invalid_request_error")
TABLE[NotDone] = HttpAnswer(409, "invalid_request_error", retry=False)
TABLE[UnsupportedMediaType] = HttpAnswer(415, "invalid_request_error")
TABLE[Forbidden] = HttpAnswer(403, "permission_error", retry=False)


def answer_to(error: TriptychError) -> HttpAnswer:
    """The table's row for the error's class, or for the nearest class above it."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def error_body(error: TriptychError, request: Request) -> ErrorBody:
    return told_error(error, request.state.request_id, getattr(request.state, "asked_as", {}))


def told_error(error: TriptychError, request_id: str, asked_as: Mapping[str, str]) -> ErrorBody:
    """What the server is to blame for, and what only a log may tell, is logged here, under the request's id. `asked_as`: what
    `AskingBody.asked_as` said, once the body was read."""
    row = answer_to(error)
    told = error.for_request(asked_as.get(error.param or ""))
    if row.sentence or error.detail is not None:
        level = logging.ERROR if row.status >= SERVER_ERROR else logging.INFO
        logger.log(level, "request %s failed: %s: %s", request_id, type(error).__name__, error)
    if row.sentence:
        return _fixed(row, error.code, request_id)
    return ErrorBody(error=ErrorDetail(message=told.message + row.hint, type=row.type, param=told.param, code=error.code))


def _fixed(row: HttpAnswer, code: str, request_id: str) -> ErrorBody:
    message = f"{row.sentence}; the log says more under request id {request_id}"
    return ErrorBody(error=ErrorDetail(message=message, type=row.type, param=None, code=code))


def error_response(error: TriptychError, request: Request) -> Response:
    """The error as a whole response; 429 and 503 say when to try again."""
    row = answer_to(error)
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        wait_s = max(error.retry_after_s or 1.0, 0.001)
        headers = {"retry-after": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}
    if isinstance(error, NotAuthorized):
        headers["www-authenticate"] = "Bearer"
    if row.retry is not None:
        headers["x-should-retry"] = str(row.retry).lower()
    return json_response(error_body(error, request).to_json(), status=row.status, headers=headers)


def json_response(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status_code=status, headers=headers, media_type="application/json")


def internal_error_body(request_id: str) -> ErrorBody:
    """For what should not have happened: the log has the cause, under this id."""
    return _fixed(TABLE[TriptychError], "internal_error", request_id)


def internal_error(request_id: str) -> Response:
    body = internal_error_body(request_id).to_json()
    return json_response(body, status=SERVER_ERROR, headers={"x-should-retry": "false"})


async def triptych_error_handler(request: Request, error: Exception) -> Response:
    if not isinstance(error, TriptychError):
        raise error
    return error_response(error, request)


async def routing_error_handler(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    what = f"{request.method} {shown_address(request.scope['path'])}"
    if error.status_code == 404:
        message, code = f"unknown request URL: {what}; GET /openapi.json lists what is served", "unknown_url"
    elif error.status_code == 405:
        message, code = f"method not allowed: {what}", "method_not_allowed"
    else:
        message, code = str(error.detail), "invalid_request"
    detail = ErrorDetail(message=message, type="invalid_request_error", param=None, code=code)
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if error.status_code == 405:
        headers["allow"] = _allowed(request)
    return json_response(ErrorBody(error=detail).to_json(), status=error.status_code, headers=headers)


def _allowed(request: Request) -> str:
    """Every method of an address, of whichever of its routes: Starlette tells those of the first."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in routes for method in getattr(route, "methods", None) or ()}))


def shown_address(text: str) -> str:
    """What is said of an address, or of a part of it: itself where it is an ordinary one. Whoever follows a link has not written it, so
    that an answer must not say what a link wants said."""
    return text if _ORDINARY.fullmatch(text) else "(not repeated here)"
