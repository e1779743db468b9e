"""The messages of a chat, as clients send them.

Decides what in a message is read, what is passed over (what other servers, and the SDKs' own objects, add to it), and what is refused by
name because to pass over it would change the answer. Knows no models.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pipelines.ingress.schemas.strict import ImageAddress, RequestBody

MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of one message
MAX_PARTS_IN_ALL = 8192  # a template may copy what it has written so far for every part
MAX_CALLS = 128  # of one message


class LenientBody(RequestBody):
    """Of which what is not declared is passed over."""

    model_config = ConfigDict(extra="ignore")


class TextContent(LenientBody):
    type: Literal["text"]
    text: str


class ChatImageAddress(ImageAddress):
    model_config = ConfigDict(extra="ignore")

    detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="low: shrunk to fit 512 x 512 pixels first"
    )


class ImageContent(LenientBody):
    type: Literal["image_url"]
    image_url: ChatImageAddress


class RefusalContent(LenientBody):
    type: Literal["refusal"]
    refusal: str


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]
SaidContent = Annotated[TextContent | RefusalContent, Field(discriminator="type")]
TextOnly = str | Annotated[list[TextContent], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
Said = str | Annotated[list[SaidContent], Field(max_length=MAX_PARTS, fail_fast=True)]
CallId = Annotated[str, Field(max_length=512)]
Speaker = Annotated[str, Field(max_length=512)]


class SystemMessage(LenientBody):
    role: Literal["system", "developer"]
    content: TextOnly
    name: Speaker | None = None


class UserMessage(LenientBody):
    role: Literal["user"]
    content: str | Annotated[list[Content], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
    name: Speaker | None = None
    images: None = None
    audio: None = None


class CalledFunction(LenientBody):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str | dict[str, Any] = Field("", description="JSON text of an object")


class ToolCall(LenientBody):
    id: CallId = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(LenientBody):
    """An earlier answer, as it was given. `content` may be null beside calls or a refusal."""

    role: Literal["assistant"]
    content: Said | None = None
    name: Speaker | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(None, description="what it thought, for templates that show it again")
    reasoning: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    function_call: CalledFunction | None = None
    audio: None = None
    prefix: Literal[False] | None = None
    partial: Literal[False] | None = None


class ToolMessage(LenientBody):
    """What a call returned."""

    role: Literal["tool"]
    content: Said
    tool_call_id: CallId
    name: Speaker | None = None


class FunctionMessage(LenientBody):
    """The same, as it was before there were tools."""

    role: Literal["function"]
    content: str | None
    name: Speaker


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]
