"""What the HTTP surface asks of a pipeline, and what a pipeline answers: checked, and without HTTP.

Of stages it knows the messages, so that nothing is said in two ways. `pipelines/ingress/routes` turns bodies into jobs and answers
into bodies; `image_text.py`, `text_to_image.py` and `embed.py` do the jobs. An `InvalidRequest` of theirs names a field of the job
(or a part's own `param`), and a message about a field begins with its name.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.context import RequestContext
from pipelines.tools.asked import ToolChoice, Tools
from pipelines.tools.events import AnswerEvent
from stages.contract.item import StageMetrics
from stages.llm.messages import Sampling


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
class PastCall:
    """A call that an earlier answer made; `arguments` as that answer wrote them, which should be a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`name`: who speaks, or the function that a tool's message comes from; `reasoning` and `calls` are an assistant's; `call_id`: which
    call a tool's message answers."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[TextPart | ImagePart, ...]
    name: str | None = None
    reasoning: str | None = None
    calls: tuple[PastCall, ...] = ()
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """How a conversation is written as a prompt. `variables`: a template's own settings (JSON values). `begins_answer`: the prompt ends
    with the head of the model's own message; `continues`: it ends within the last message, which the answer goes on with. `echoes`: the
    answer begins with what it goes on with. `asked`: by the request's field, the variables that it sets."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    begins_answer: bool = True
    continues: bool = False
    echoes: bool = False


@dataclass(frozen=True, slots=True)
class ChatJob:
    """`may_shorten`: `sampling.max_tokens` is the model's own, and gives way where the context leaves less room. `tools` None: the answer
    calls none."""

    messages: tuple[Message, ...]
    sampling: Sampling
    n: int = 1
    may_shorten: bool = False
    tools: Tools | None = None
    template: TemplateOptions = TemplateOptions()


@dataclass(frozen=True, slots=True)
class ChatStarted:
    """First answer to a chat job, once every choice's first step is on its way: from here on headers may be sent."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class ChoiceEvents:
    """What was said of one choice since it was last heard, in order. A choice's last event is a `GenerationEnd`."""

    index: int
    events: Sequence[AnswerEvent]


ChatEvent = ChatStarted | ChoiceEvents


@dataclass(frozen=True, slots=True)
class PlainPrompt:
    """What a model is to go on with, as it is: a text, in which control tokens are what they say, or tokens. `param`: the request's
    field, for messages. `has_marks`: a text gets the tokenizer's own begin and end."""

    content: str | tuple[int, ...]
    param: str = field(default="prompt", compare=False)
    has_marks: bool = True


@dataclass(frozen=True, slots=True)
class ReadText:
    """A prompt's tokens, and its text, in which the first `num_marks` of them are not written. `first`: what the first token says."""

    token_ids: tuple[int, ...]
    text: str
    num_marks: int = 0
    first: str = ""


@dataclass(frozen=True, slots=True)
class TokenizerNote:
    """What whoever writes a model's prompts himself needs to know of its tokenizer: the texts of its own tokens, as far as it has them, and
    how conversations are written."""

    begin: str | None = None
    end: str | None = None
    padding: str | None = None
    unknown: str | None = None
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class CompleteJob:
    """`n` answers to each prompt. `sampling.max_tokens` 0: none, the prompts are only read."""

    prompts: tuple[PlainPrompt, ...]
    sampling: Sampling
    n: int = 1


@dataclass(frozen=True, slots=True)
class PromptsRead:
    """First answer to a completion job, as `ChatStarted`: its prompts, in their order."""

    prompts: tuple[ReadText, ...]


CompletionEvent = PromptsRead | ChoiceEvents
"""A choice's index counts on through all prompts: `prompt * n + choice`."""


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
    `init` None: from noise alone. `trunk`: what it shares with other paintings of its seed (None: nothing). `first`: the index of its first
    image, where others of the same request are asked for apart."""

    prompt: str
    n: int = 1
    first: int = 0
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
    nothing, of every model that chats. `tool_choices`: how it may be asked to call functions. None: not known, or without meaning for the
    pipeline."""

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
    tool_choices: tuple[ToolChoice, ...] | None = None


class ChatPipeline(Protocol):
    def chat(self, job: ChatJob, context: RequestContext) -> AsyncIterator[ChatEvent]:
        """Yields `ChatStarted` first; raises any `TriptychError`, before or after. Closing the iterator cancels the work."""
        ...

    async def token_ids(self, job: ChatJob) -> Sequence[int]:
        """Of the prompt that the job's conversation becomes. Raises as `chat` does before it starts."""
        ...


class TextPipeline(Protocol):
    """What the models that chat do with plain texts."""

    def complete(self, job: CompleteJob, context: RequestContext) -> AsyncIterator[CompletionEvent]:
        """Yields `PromptsRead` first; otherwise as `ChatPipeline.chat`."""
        ...

    async def read(self, prompt: PlainPrompt) -> ReadText:
        """Raises `InvalidRequest`."""
        ...

    async def text_of(self, token_ids: Sequence[int]) -> str:
        """Raises `InvalidRequest` for a token that the tokenizer doesn't have."""
        ...

    async def spelled(self, token_ids: Sequence[int]) -> Sequence[str]:
        """Each token as the vocabulary has it."""
        ...

    def tokenizer(self) -> TokenizerNote: ...


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

    def text_pipeline(self, model: str) -> TextPipeline: ...

    def paint_pipeline(self, model: str) -> PaintPipeline: ...

    def embed_pipeline(self, model: str) -> EmbedPipeline: ...

    async def stage_cards(self) -> Sequence[StageCard]: ...

    async def stage_metrics(self) -> Sequence[StageMetrics]: ...
