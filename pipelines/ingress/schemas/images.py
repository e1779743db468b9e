"""POST /v1/images/generations, /edits and /variations: the bodies, the answer and the streamed events. Knows no models and no configured
limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, Extras, RequestBody, ResponseBody, Seed, UnsaidModelId
from stages.diffusion.messages import MAX_GUIDANCE_SCALE

Steps = Annotated[int, Field(ge=1, le=10_000), WHOLE]
Guidance = Annotated[float, Field(ge=0, le=MAX_GUIDANCE_SCALE)]
Sampler = Annotated[str, Field(min_length=1, max_length=64)]
ImageFormat = Literal["png", "jpeg", "webp"]
Strength = Annotated[
    float, Field(gt=0, le=1, description="how much of the image is painted over; of the steps, that share is run")
]


class TrunkExtras(RequestBody):
    """What variations share: paintings of one seed that differ in their prompts alone are one painting up to there."""

    prompt: Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"\S"}, description="what is painted at first")]
    part: Annotated[
        float, Field(gt=0, lt=1, description="of the steps, how many follow it; the rest follow the request's prompt")
    ]


class PaintExtras(Extras):
    """Triptych's own. All but `priority`, `progress` and `trunk` may stand at the top level too, but not twice."""

    progress: bool = Field(False, description="while streaming, also send a `triptych.progress` event after every step")
    trunk: TrunkExtras | None = None
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    seed: Seed | None = None
    scheduler: Sampler | None = None


class EditExtras(PaintExtras):
    strength: Strength | None = None


class PaintBody(AskingBody):
    """What both ask for. Of what OpenAI's models take and ours don't, the values that it documents are accepted where they change nothing
    that was asked for: the receipt says so (`notes`). `says_what`: in a prompt, what is to be painted."""

    says_what: ClassVar[bool] = True
    model: UnsaidModelId = ""
    prompt: Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"\S"})]
    n: Annotated[int, Field(ge=1), WHOLE] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: ImageFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100), WHOLE] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3), WHOLE] | None = None
    negative_prompt: str | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    seed: Seed | None = None
    scheduler: Sampler | None = None
    triptych: PaintExtras | None = None
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    complexity: Literal["low", "medium", "high"] | None = None
    moderation: Literal["auto", "low"] | None = None
    background: Literal["auto", "opaque"] | None = None

    def without_effect(self) -> Mapping[str, str]:
        given = ((name, getattr(self, name, None), why) for name, why in UNHEEDED.items())
        return {name: why for name, value, why in given if value not in (None, "auto")}

    def asked_as(self) -> Mapping[str, str]:
        own = {job: f"triptych.{name}" for job, name in _OWN.items() if getattr(self.triptych, name, None) is not None}
        return {"width": "size", "height": "size", "negative": "negative_prompt", "init": "image"} | _OWN | own


_OWN = {
    "negative_prompt": "negative_prompt",
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "sampler": "scheduler",
    "strength": "strength",
    "trunk": "trunk",
}
"""What a job calls the fields that may stand under `triptych` too -> their names there and at the top level."""


UNHEEDED = {
    "quality": "num_inference_steps says how much work a painting is",
    "complexity": "num_inference_steps says how much work a painting is",
    "style": "say in the prompt which style is wanted",
    "input_fidelity": "strength says how much of the image is painted over, and mask where",
}


class ImagesBody(PaintBody):
    style: Literal["vivid", "natural"] | None = None


IMAGE = (
    "the image to start from: PNG, JPEG, WebP, AVIF, GIF (first frame) or BMP. It is scaled to cover the size, and cut about its middle "
    "where the proportions differ"
)
MASK = (
    "an image as large as the one to start from, with transparency: only where it is transparent is anything painted, and everywhere else "
    "the image's pixels stay as they are (before they are encoded)"
)
EDITED_SIZE = "not given, or auto: the image's own size where the model paints it, or else the model's default"


def _as_form(schema: dict[str, Any]) -> None:
    """A form has a file, which is no field of the checked body, and no nulls."""
    for name, found in schema["properties"].items():
        types = [type for type in found.get("anyOf", ()) if type != {"type": "null"}]
        if len(types) == 1:
            kept = {key: value for key, value in found.items() if key not in ("anyOf", "default")}
            schema["properties"][name] = kept | types[0]
    for name, description in (("image", IMAGE), ("mask", MASK)):
        schema["properties"][name] = {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": f"a file: {description}",
        }
    schema["properties"]["size"]["description"] = EDITED_SIZE
    schema["required"].append("image")


class EditBody(PaintBody):
    """A multipart form. Image and mask are files beside these fields."""

    model_config = ConfigDict(json_schema_extra=_as_form)

    strength: Strength | None = None
    input_fidelity: Literal["low", "high"] | None = None
    triptych: EditExtras | None = None


def _as_variation(schema: dict[str, Any]) -> None:
    schema.setdefault("required", [])
    _as_form(schema)
    del schema["properties"]["mask"]


class VariationBody(EditBody):
    """A multipart form. The image is a file beside these fields, and all that says what is painted."""

    model_config = ConfigDict(json_schema_extra=_as_variation)

    says_what: ClassVar[bool] = False
    prompt: Literal[""] = Field("", description="none; /v1/images/edits takes one")


class GivenAddress(RequestBody):
    image_url: Annotated[
        str, Field(min_length=1, description="a data: URL, or an http(s) address where fetching is configured")
    ]

    @model_validator(mode="before")
    @classmethod
    def no_file_ids(cls, given: object) -> object:
        if isinstance(given, Mapping) and given.get("file_id") is not None:
            raise ValueError("file_id is not supported: send the image itself, as a data: URL in image_url")
        return given


class EditJson(EditBody):
    """The same as JSON."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema["properties"]["size"].update(description=EDITED_SIZE))

    images: Annotated[list[GivenAddress], Field(min_length=1, description=IMAGE)]
    mask: Annotated[GivenAddress, Field(description=MASK)] | None = None

    def asked_as(self) -> Mapping[str, str]:
        return {**super().asked_as(), "image": "images[0].image_url", "mask": "mask.image_url"}


class ImageNote(ResponseBody):
    """What an image is and how to paint it again. `receipt` comes with the last event of a stream."""

    index: int
    seed: int
    receipt: Receipt | None = None


class ImageEntry(ResponseBody):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: None = None
    triptych: ImageNote


class ImagesAnswer(ResponseBody):
    created: int
    background: Literal["opaque"]
    output_format: ImageFormat
    size: str
    data: list[ImageEntry]
    triptych: Receipt


class NoTokens(ResponseBody):
    image_tokens: Literal[0]
    text_tokens: Literal[0]


class ImageUsage(ResponseBody):
    """OpenAI's event has it; images are not metered in tokens here, so it counts none. The receipt counts device seconds."""

    input_tokens: Literal[0]
    input_tokens_details: NoTokens
    output_tokens: Literal[0]
    total_tokens: Literal[0]


PartialType = Literal["image_generation.partial_image", "image_edit.partial_image"]
CompletedType = Literal["image_generation.completed", "image_edit.completed"]


@dataclass(frozen=True, slots=True)
class EventTypes:
    partial: PartialType
    completed: CompletedType


GENERATION_EVENTS = EventTypes("image_generation.partial_image", "image_generation.completed")
EDIT_EVENTS = EventTypes("image_edit.partial_image", "image_edit.completed")


class PartialImageEvent(ResponseBody):
    type: PartialType
    b64_json: str
    background: Literal["opaque"]
    created_at: int
    output_format: ImageFormat
    partial_image_index: int
    quality: Literal["auto"]
    size: str
    triptych: ImageNote


class CompletedEvent(ResponseBody):
    type: CompletedType
    b64_json: str
    background: Literal["opaque"]
    created_at: int
    output_format: ImageFormat
    quality: Literal["auto"]
    size: str
    usage: ImageUsage
    triptych: ImageNote


class ProgressEvent(ResponseBody):
    """Sent only where `triptych.progress` asked for it: typed clients need not expect a kind of event that OpenAI hasn't."""

    type: Literal["triptych.progress"]
    index: int
    step: int
    total: int
