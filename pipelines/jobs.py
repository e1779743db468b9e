"""What the HTTP surface asks of a pipeline, and what a pipeline answers: checked, and without HTTP.

Of stages it knows the messages, so that nothing is said in two ways. `pipelines/ingress/routes` turns bodies into jobs and answers
into bodies; `image_text.py`, `text_to_image.py` and `embed.py` do the jobs. An `InvalidRequest` of theirs names a field of the job
(or a part's own `param`), and a message about a field begins with its name.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.context import RequestContext
from stages.contract.item import StageMetrics
from stages.llm.messages import GenerationEnd, Sampling, TokenDelta


@dataclass(frozen=True, slots=True)
class TextPart:
    """`param`: the request's field, for messages."""

    text: str
    param: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An encoded image, already fetched, sniffed and within the limits (`pipelines/ingress/images/image_url.py`), with its
    size in pixels after EXIF orientation."""

    data: bytes
    width: int
    height: int
    param: str  # the request's field, for messages: "messages[0].content[1]"

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    parts: tuple[TextPart | ImagePart, ...]


@dataclass(frozen=True, slots=True)
class ChatJob:
    """`may_shorten`: `sampling.max_tokens` is the model's own, and gives way where the context leaves less room."""

    messages: tuple[Message, ...]
    sampling: Sampling
    n: int = 1
    may_shorten: bool = False


@dataclass(frozen=True, slots=True)
class ChatStarted:
    """First answer to a chat job, once every choice's first step is on its way: from here on headers may be sent."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ChoiceEvents:
    """What the LLM said of one choice since it was last heard: its own events, in order. A choice's last one is a
    `GenerationEnd`."""

    index: int
    events: Sequence[TokenDelta | GenerationEnd]


ChatEvent = ChatStarted | ChoiceEvents


@dataclass(frozen=True, slots=True)
class GivenImage:
    """What an edit starts from. `strength` over 0 to 1: how much of it is painted over (1: all); None: the model's own default, and all
    within a mask. `mask`: an image as large as it; only where that is transparent is anything painted (None: everywhere)."""

    image: ImagePart
    strength: float | None = None
    mask: ImagePart | None = None


@dataclass(frozen=True, slots=True)
class Trunk:
    """What variations have in common: up to `part` (over 0, under 1) of their steps they follow this prompt, and then their own."""

    prompt: str
    part: float


@dataclass(frozen=True, slots=True)
class PaintJob:
    """None: the model's own default. `partial_images`: how many previews of each image are wanted while it is painted (0-3).
    `init` None: from noise alone. `trunk`: what it shares with other paintings of its seed (None: nothing)."""

    prompt: str
    n: int = 1
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    sampler: str | None = None
    partial_images: int = 0
    init: GivenImage | None = None
    trunk: Trunk | None = None


@dataclass(frozen=True, slots=True)
class PaintProgress:
    index: int
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class PaintImage:
    """An image, [height, width, 3] uint8. `partial` counts previews from 0; None: the finished image. `seed` reproduces it."""

    index: int
    pixels: NDArray[np.uint8]
    seed: int
    partial: int | None = None


PaintEvent = PaintProgress | PaintImage


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """Each input is a text or an image."""

    inputs: tuple[TextPart | ImagePart, ...]


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector an input, float32, unit length. `num_tokens` counts text tokens and image patches."""

    vectors: tuple[NDArray[np.float32], ...]
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StageCard:
    """What /v1/models and /ready tell about one pool of a stage. `accelerator_type`: what its replicas are placed on; None: on anything.
    `capacity`: how many items its replicas take into one step, all together; None: they have not said it yet. `scaled_to_zero`: no
    replica runs, and none is needed to be ready. `age_s`: how long ago that was known to be so."""

    name: str
    kind: str
    deployment: str
    device: str
    replicas: int
    ready: bool
    loader: str = ""
    source: str = ""
    dtype: str = "float32"
    scaled_to_zero: bool = False
    age_s: float = 0.0
    accelerator_type: str | None = None
    capacity: int | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What can be asked of a model. `sizes`: the (width, height) it paints at; empty: any multiple of `size_multiple`.
    `accepts_images`: chat looks at images, a painter edits them. `sampling`: how a chat is answered where its request says
    nothing, of every model that chats. None: not known, or without meaning for the pipeline."""

    id: str
    pipeline: Literal["image_text", "text_to_image", "embed"]
    stages: tuple[str, ...]
    created: int = 0
    max_context_tokens: int | None = None
    sizes: tuple[tuple[int, int], ...] = field(default=())
    size_multiple: int = 8
    default_steps: int | None = None
    max_steps: int | None = None
    default_guidance_scale: float | None = None
    default_strength: float | None = None
    samplers: tuple[str, ...] = ()
    max_prompt_tokens: int | None = None
    accepts_images: bool | None = None
    sampling: Sampling | None = None


class ChatPipeline(Protocol):
    def chat(self, job: ChatJob, context: RequestContext) -> AsyncIterator[ChatEvent]:
        """Yields `ChatStarted` first; raises any `TriptychError`, before or after. Closing the iterator cancels the work."""
        ...


class PaintPipeline(Protocol):
    def paint(self, job: PaintJob, context: RequestContext) -> AsyncIterator[PaintEvent]:
        """The first event comes once every stage has accepted the work. Closing the iterator cancels it."""
        ...

    async def forecast(self, job: PaintJob, context: RequestContext) -> float | None:
        """In how many seconds it is expected to be painted; None: nobody knows yet. Starts nothing. Raises `InvalidRequest` as `paint` does
        for what can be told before anything has started."""
        ...


class EmbedPipeline(Protocol):
    async def embed(self, job: EmbedJob, context: RequestContext) -> Embedded: ...


class Service(Protocol):
    """All that the HTTP surface needs of the rest of Triptych."""

    def models(self) -> Sequence[ModelCard]: ...

    def chat_pipeline(self, model: str) -> ChatPipeline:
        """Raises `UnknownModel`, or `InvalidRequest` for a model that does something else."""
        ...

    def paint_pipeline(self, model: str) -> PaintPipeline: ...

    def embed_pipeline(self, model: str) -> EmbedPipeline: ...

    async def stage_cards(self) -> Sequence[StageCard]: ...

    async def stage_metrics(self) -> Sequence[StageMetrics]: ...
