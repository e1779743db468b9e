"""What /openapi.json says beyond what FastAPI finds out: bodies (which we read ourselves), errors, headers and keys. Knows no
routes."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json

from pipelines.ingress.body.forms import MEDIA_TYPE as FORM
from pipelines.ingress.proxy.proxy_headers import REQUEST_ID
from pipelines.ingress.request.arrival import TIMEOUT_HEADER
from pipelines.ingress.request.settings import IngressSettings
from pipelines.ingress.schemas.errors import ErrorBody

JsonObject = dict[str, Any]  # OpenAPI's own shape, which FastAPI takes and gives as plain dictionaries

EVENTS: JsonObject = {"content": {"text/event-stream": {}}}  # events, not one value: they have no schema of their own here
REF = "#/components/schemas/{model}"
CONFLICT = 409
REASONS = {
    400: "the request is at fault; `param` names the field",
    401: "an API key is needed, or is not known",
    403: "no keys are configured, and this may be another's request than this machine's user's",
    404: "not served",
    CONFLICT: "not done yet, or never to be",
    413: "over a configured limit",
    415: "another content-type than the operation takes",
    429: "a queue is full, or a quota used up; Retry-After says when to try again",
    500: "a stage failed on this request",
    503: "no live replica; Retry-After says when to try again",
    504: "the request's time is up",
}
POST_ERRORS = tuple(status for status in REASONS if status != CONFLICT)


def error_answers(*statuses: int) -> dict[int | str, JsonObject]:
    return {status: {"model": ErrorBody, "description": REASONS[status]} for status in statuses}


def operation(*, keyed: bool = False) -> JsonObject:
    """What an operation says beyond its answers. `keyed`: it asks for an API key."""
    extra: JsonObject = {"parameters": [_header(REQUEST_ID, {"type": "string"})]}
    if keyed:
        extra["security"] = [{"bearer": []}]
    return extra


def asking(body: type[BaseModel] | None, settings: IngressSettings, *, form: type[BaseModel] | None = None) -> JsonObject:
    """What an operation with a body says beyond its answers. `body`: as JSON; `form`: as a multipart form. It takes at least one."""
    extra = operation(keyed=bool(settings.keys))
    timeout = {"type": "number", "exclusiveMinimum": 0, "maximum": settings.limits.max_request_s}
    extra["parameters"].append(_header(TIMEOUT_HEADER, timeout))
    content: JsonObject = {}
    if body is not None:
        content["application/json"] = {"schema": {"$ref": REF.format(model=body.__name__)}}
    if form is not None:
        nested = {"triptych": {"style": "deepObject", "explode": True}}  # triptych[seed], not JSON within a form
        content[FORM] = {"schema": {"$ref": REF.format(model=form.__name__)}, "encoding": nested}
    extra["requestBody"] = {"required": True, "content": content}
    return extra


class ApiDescription:
    """Of the whole app: the bodies' schemas too, with the ids that each one's `model` may be. On any thread."""

    def __init__(self, app: FastAPI, bodies: Mapping[type[BaseModel], Sequence[str]]) -> None:
        self._app, self._bodies = app, bodies
        self._lock, self._made = threading.Lock(), dict[str, Any]()
        self._json = b""

    def openapi(self) -> JsonObject:
        """A tenth of a second of CPU, once."""
        with self._lock:
            self._made = self._made or _description(self._app, self._bodies)
            return self._made

    def to_json(self) -> bytes:
        made = self.openapi()
        with self._lock:
            self._json = self._json or to_json(made)
            return self._json


def describe(app: FastAPI, bodies: Mapping[type[BaseModel], Sequence[str]]) -> ApiDescription:
    """Makes the app publish the whole description."""
    description = ApiDescription(app, bodies)
    app.openapi = description.openapi  # type: ignore[method-assign]
    return description


def _description(app: FastAPI, bodies: Mapping[type[BaseModel], Sequence[str]]) -> JsonObject:
    description = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = description.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, definitions = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
    schemas.update(definitions["$defs"])
    for body, models in bodies.items():
        if models:
            _name_models(schemas[body.__name__], models)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for found in _operations(description):
        found["responses"].pop("422", None)  # FastAPI's own, which this surface never gives
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return description


def _name_models(schema: JsonObject, models: Sequence[str]) -> None:
    """A model that need not be said may be null, as all that is left out."""
    model = schema["properties"]["model"]
    model["enum"] = list(models)
    if "model" not in schema.get("required", ()):
        model |= {"type": ["string", "null"], "enum": [*models, None]}


def _operations(description: JsonObject) -> Iterable[JsonObject]:
    for path in description["paths"].values():
        for method, found in path.items():
            if method in ("get", "post", "delete"):
                yield found


def _header(name: str, schema: JsonObject) -> JsonObject:
    return {"name": name, "in": "header", "required": False, "schema": schema}
