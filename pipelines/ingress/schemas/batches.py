"""/v1/files and /v1/batches: the bodies and the answers, as OpenAI has them."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pipelines.ingress.schemas.strict import ResponseBody, WholeBody

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations")
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations"]


def _as_form(schema: dict[str, Any]) -> None:
    """A form has a file, which is no field of the checked body."""
    schema["properties"].pop("triptych", None)
    schema["properties"]["file"] = {"type": "string", "contentMediaType": "application/octet-stream"}
    schema["required"] = ["file", *schema.get("required", ())]


class FileBody(WholeBody):
    """A form, with the bytes in `file`: requests of a batch, a line of JSON each."""

    model_config = ConfigDict(json_schema_extra=_as_form)

    purpose: Literal["batch"]


class FileAnswer(ResponseBody):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class FileList(ResponseBody):
    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(ResponseBody):
    id: str
    object: Literal["file"]
    deleted: bool


class BatchBody(WholeBody):
    input_file_id: Annotated[str, Field(min_length=1, max_length=100)]
    endpoint: Endpoint
    completion_window: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}[mh]$")] = Field(
        description='"24h", or as many minutes ("90m") or hours, within ingress.kept.batch_s'
    )
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    output_expires_after: None = None


class BatchErrors(ResponseBody):
    object: Literal["list"]
    data: list[dict[str, Any]]


class BatchCounts(ResponseBody):
    total: int
    completed: int
    failed: int


class BatchAnswer(ResponseBody):
    """Times are seconds since 1970. Lines that failed, or were not asked in time, are in `error_file_id`."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Literal["validating", "failed", "in_progress", "completed", "expired", "cancelling", "cancelled"]
    errors: BatchErrors | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None


class BatchList(ResponseBody):
    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool
