"""GET /v1/models, /health and /ready: what is served, and whether it can be."""

from typing import Literal

from pydantic import Field

from pipelines.ingress.schemas.strict import ResponseBody
from pipelines.tools.asked import ToolChoice


class StageNote(ResponseBody):
    """Of a stage in one deployment: of a stage that has several, its pools, there are as many."""

    name: str
    kind: str
    deployment: str
    device: str
    dtype: str = Field(description="what it computes in; auto: not known yet, because no replica has reported")
    replicas: int
    ready: bool
    scaled_to_zero: bool
    loader: str
    source: str
    accelerator_type: str | None = Field(None, description="what its replicas are placed on; null: on anything")
    capacity: int | None = Field(
        None, description="items that its replicas take into one step, all together; null: they have not said it yet"
    )


class PaintBounds(ResponseBody):
    """What a model that paints accepts. `sizes` empty: any multiple of `size_multiple`. None: not known here, or (the strength)
    that it edits no images."""

    sizes: list[str]
    size_multiple: int
    default_steps: int | None
    max_steps: int | None
    default_guidance_scale: float | None
    default_strength: float | None
    samplers: list[str]
    max_prompt_tokens: int | None


class SamplingNote(ResponseBody):
    """What a chat is answered with where its request says nothing: the checkpoint's `generation_config.json`, or OpenAI's defaults
    and `limits.default_max_tokens`."""

    temperature: float
    top_p: float
    top_k: int = Field(description="0: all tokens")
    min_p: float
    repetition_penalty: float
    max_tokens: int


class ModelNote(ResponseBody):
    pipeline: Literal["image_text", "text_to_image", "embed"]
    stages: list[StageNote]
    max_context_tokens: int | None = None
    accepts_images: bool | None = Field(None, description="chat looks at images; a painter edits them")
    sampling: SamplingNote | None = None
    tool_choices: list[ToolChoice] | None = Field(
        None, description="what a chat's tool_choice may be, beside none; required: a named function, too"
    )
    paint: PaintBounds | None = None


class ModelEntry(ResponseBody):
    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["triptych"]
    triptych: ModelNote


class ModelList(ResponseBody):
    object: Literal["list"]
    data: list[ModelEntry]


class Health(ResponseBody):
    status: Literal["ok"]


class Readiness(ResponseBody):
    """`missing`: the stages that a model needs and that have no live replica in any pool, while not scaled to zero on purpose. `pools`: of
    the stages that have several, each. Both absent, as `reason` is, for whoever has no key where one is needed."""

    ready: bool
    missing: list[str] | None = Field(None, description="MODEL.PART names")
    pools: list[StageNote] | None = None
    reason: str | None = None
    age_s: float | None = Field(
        None, description="how long ago that was known to be so; more than a second or two: nobody can tell now"
    )
