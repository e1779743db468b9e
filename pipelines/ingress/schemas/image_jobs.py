"""/v1/images/jobs: a painting or an edit that no connection waits for. The body, and what is told of a job, in the shape of OpenAI's other
jobs (videos, batches). Knows no models."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pipelines.ingress.schemas.images import EDITED_SIZE, IMAGE, MASK, EditBody, GivenAddress, ImageFormat
from pipelines.ingress.schemas.strict import ResponseBody

JobStatus = Literal["queued", "in_progress", "completed", "failed", "cancelled"]


def _sizes(schema: dict[str, Any]) -> None:
    schema["properties"]["size"]["description"] = EDITED_SIZE


class JobForm(EditBody):
    """What an edit is asked with; a multipart form with the image and the mask as files."""

    style: Literal["vivid", "natural"] | None = None


class JobBody(JobForm):
    """JSON: what a painting is asked with, or with `images` an edit."""

    model_config = ConfigDict(json_schema_extra=_sizes)

    images: Annotated[list[GivenAddress], Field(min_length=1, description=IMAGE)] | None = None
    mask: Annotated[GivenAddress, Field(description=MASK)] | None = None

    def asked_as(self) -> dict[str, str]:
        return {**super().asked_as(), "image": "images[0].image_url", "mask": "mask.image_url"}


class JobError(ResponseBody):
    code: str
    message: str
    param: str | None = None
    type: str


class JobSteps(ResponseBody):
    """Of all images together."""

    done: int
    total: int


class JobImage(ResponseBody):
    index: int
    seed: int
    size: str
    url: str = Field(description="the image itself, for whoever may see the job; `result` has all of them as base64")


class ImageJob(ResponseBody):
    """`survives`: whether it is done even where the process that took it ends."""

    id: str
    object: Literal["image.job"] = "image.job"
    kind: Literal["generation", "edit"]
    model: str
    status: JobStatus
    progress: int = Field(description="percent")
    created_at: int
    started_at: int | None = None
    completed_at: int | None = None
    expires_at: int = Field(description="what is not done by then fails; what came of it is kept about so long")
    eta_s: float | None = Field(description="seconds until it is expected to be done; null: not known, or done")
    steps: JobSteps | None = None
    output_format: ImageFormat
    survives: bool
    tries: int = Field(description="how many processes have begun it")
    images: list[JobImage] = []
    error: JobError | None = None


class ImageJobList(ResponseBody):
    object: Literal["list"] = "list"
    data: list[ImageJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedJob(ResponseBody):
    id: str
    object: Literal["image.job"] = "image.job"
    deleted: bool
