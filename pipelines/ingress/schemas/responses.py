"""POST /v1/responses: the body. Its answer is built of OpenAI's items and events (`routes/responses/`).

Decides what an input item may be, and what of OpenAI's is taken without effect: nothing is stored, so what needs an earlier response is
refused by name. How a tool or a format is checked in detail is the chat's (`schemas/chat.py`), which these become. Knows no models.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, RequestBody, ResponseBody
from stages.llm.messages import MaxTokens, NumLogprobs, Temperature, TopP

MAX_ITEMS = 4096
MAX_PARTS = 1024  # of one item
MAX_TOOLS = 128


class Item(RequestBody):
    """Part of a conversation: what else an earlier answer's item has, which clients send back as they got it, says nothing more."""

    model_config = ConfigDict(extra="ignore")


class InputText(Item):
    type: Literal["input_text"]
    text: str


class OutputText(Item):
    type: Literal["output_text"]
    text: str


class Refusal(Item):
    type: Literal["refusal"]
    refusal: str


class InputImage(Item):
    """`file_id`: files are not looked at."""

    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    file_id: None = None
    detail: Literal["auto", "low", "high", "original"] | None = None


MessagePart = Annotated[InputText | InputImage | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[MessagePart], Field(max_length=MAX_PARTS, fail_fast=True)]


class FunctionCallItem(Item):
    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class FunctionOutputItem(Item):
    """Texts only: no template shows the image that a function returned."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=256)]
    output: str | Annotated[list[InputText], Field(max_length=MAX_PARTS, fail_fast=True)]


class ReasoningText(Item):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Item):
    """What an earlier answer thought. `encrypted_content` is another server's."""

    type: Literal["reasoning"]
    summary: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS, fail_fast=True)] = []
    content: Annotated[list[ReasoningText], Field(max_length=MAX_PARTS, fail_fast=True)] | None = None


class PaintedItem(Item):
    """An image that an earlier answer painted, or failed to. It is not shown again, only told of."""

    type: Literal["image_generation_call"]
    id: Annotated[str, Field(min_length=1, max_length=256)]
    revised_prompt: str | None = None
    status: str | None = None


def _typed(item: object) -> object:
    """A message may leave its type out."""
    return {"type": "message", **item} if isinstance(item, dict) and "role" in item and item.get("type") is None else item


InputItem = Annotated[
    Annotated[MessageItem | FunctionCallItem | FunctionOutputItem | ReasoningItem | PaintedItem, Field(discriminator="type")],
    BeforeValidator(_typed),
]


class PlainFormat(RequestBody):
    type: Literal["text"]


class JsonFormat(RequestBody):
    type: Literal["json_object"]


class SchemaFormat(RequestBody):
    type: Literal["json_schema"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextSettings(RequestBody):
    format: Annotated[PlainFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class FunctionTool(RequestBody):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None


class PaintingTool(RequestBody):
    """The model may have an image painted: by `model`, or by the first painter that is served. The other fields are those of
    /v1/images/generations."""

    type: Literal["image_generation"]
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    action: Literal["generate", "auto"] | None = None
    size: str | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_format: str | None = None
    output_compression: int | None = None
    partial_images: int | None = None
    input_fidelity: str | None = None


Tool = Annotated[FunctionTool | PaintingTool, Field(discriminator="type")]


class FunctionChoice(RequestBody):
    type: Literal["function"]
    name: str


class PaintingChoice(RequestBody):
    type: Literal["image_generation"]


class AllowedTools(RequestBody):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[Annotated[FunctionChoice | PaintingChoice, Field(discriminator="type")]],
        Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True),
    ]


ToolChoice = (
    Literal["none", "auto", "required"]
    | Annotated[FunctionChoice | PaintingChoice | AllowedTools, Field(discriminator="type")]
)


class ReasoningSettings(RequestBody):
    """A `summary` would be a text of its own; thoughts are told as they are."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Literal["standard"] | None = None


class ResponseStreamOptions(RequestBody):
    include_obfuscation: Literal[False] | None = None


Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]


class ResponsesBody(AskingBody):
    long_list = "input"

    input: str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: Annotated[MaxTokens, WHOLE] | None = Field(
        None, description="thoughts count, too; left out: as in a chat"
    )
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[NumLogprobs, WHOLE] | None = None
    include: Annotated[list[Include], Field(max_length=16, fail_fast=True)] | None = None
    text: TextSettings | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningSettings | None = None
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    # Without effect here, so accepted: labels, hints, and neutral values of what is not offered.
    store: bool | None = Field(None, description="nothing is stored, whatever is asked; the answer says so")
    truncation: Literal["auto", "disabled"] | None = Field(None, description="auto: what doesn't fit is refused all the same")
    max_tool_calls: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None,
        description="of built-in tools: what the model wants painted beyond it, or beyond limits.max_images, is told as failed",
    )
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    prompt_cache_key: EndUser | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    prompt: None = None
    context_management: None = None


class ResponsesAnswer(ResponseBody):
    """OpenAI's `response` object; `output` holds its items: messages, thoughts, function calls, paintings."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    triptych: Receipt
