"""POST /v1/images/generations: the body, the answer and the streamed events. Knows no models and no configured limits."""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import EndUser, Integer, ModelId, Priority, RequestBody, ResponseBody, Seed

Steps = Annotated[Integer, Field(ge=1, le=10_000)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Sampler = Annotated[str, Field(min_length=1, max_length=64)]
PictureFormat = Literal["png", "jpeg", "webp"]


class PaintExtras(RequestBody):
    """Triptych's own. All but `priority` and `progress` may stand at the top level too, but not in both places."""

    priority: Priority = 0
    progress: bool = Field(False, description="while streaming, also send a `triptych.progress` event after every step")
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    seed: Seed | None = None
    scheduler: Sampler | None = None


class ImagesBody(RequestBody):
    model: ModelId
    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[Integer, Field(ge=1)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: PictureFormat | None = None
    output_compression: Annotated[Integer, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[Integer, Field(ge=0, le=3)] | None = None
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    seed: Seed | None = None
    scheduler: Sampler | None = None
    triptych: PaintExtras | None = None
    # Without effect here, so accepted.
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    quality: Literal["auto"] | None = None
    moderation: Literal["auto", "low"] | None = None
    background: Literal["auto", "opaque"] | None = None
    style: None = None


class PictureNote(ResponseBody):
    """What a picture is and how to paint it again. `receipt` comes with the last event of a stream."""

    index: int
    seed: int
    receipt: Receipt | None = None


class PictureEntry(ResponseBody):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None
    triptych: PictureNote


class ImagesAnswer(ResponseBody):
    created: int
    background: Literal["opaque"]
    output_format: PictureFormat
    size: str
    data: list[PictureEntry]
    triptych: Receipt


class NoTokens(ResponseBody):
    image_tokens: Literal[0]
    text_tokens: Literal[0]


class ImageUsage(ResponseBody):
    """OpenAI's event has it; pictures are not metered in tokens here, so it counts none. The receipt counts device seconds."""

    input_tokens: Literal[0]
    input_tokens_details: NoTokens
    output_tokens: Literal[0]
    total_tokens: Literal[0]


class PartialImageEvent(ResponseBody):
    type: Literal["image_generation.partial_image"]
    b64_json: str
    background: Literal["opaque"]
    created_at: int
    output_format: PictureFormat
    partial_image_index: int
    quality: Literal["auto"]
    size: str
    triptych: PictureNote


class CompletedEvent(ResponseBody):
    type: Literal["image_generation.completed"]
    b64_json: str
    background: Literal["opaque"]
    created_at: int
    output_format: PictureFormat
    quality: Literal["auto"]
    size: str
    usage: ImageUsage
    triptych: PictureNote


class ProgressEvent(ResponseBody):
    """Sent only where `triptych.progress` asked for it: typed clients need not expect a kind of event that OpenAI hasn't."""

    type: Literal["triptych.progress"]
    index: int
    step: int
    total: int
