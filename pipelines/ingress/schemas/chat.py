"""POST /v1/chat/completions: the body and the whole answer.

A field that OpenAI has and Triptych has not is declared only where a neutral value of it does nothing (`tools: []`); everything else
undeclared is refused by name. Knows no models and no configured limits.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import (
    WHOLE,
    AskingBody,
    EndUser,
    ImageAddress,
    Int64,
    RequestBody,
    ResponseBody,
)
from pipelines.ingress.schemas.structure import StructureFields
from stages.llm.messages import (
    Bias,
    MaxTokens,
    MinP,
    NumLogprobs,
    Penalty,
    RepetitionPenalty,
    Sampling,
    Temperature,
    TopP,
)

MAX_MESSAGES = 4096
MAX_PARTS = 1024  # of one message
MAX_PARTS_IN_ALL = 8192  # a template may copy what it has written so far for every part


class TextContent(RequestBody):
    type: Literal["text"]
    text: str


class ChatImageAddress(ImageAddress):
    detail: Literal["auto", "low", "high"] | None = Field(None, description="low: shrunk to fit 512 x 512 pixels first")


class ImageContent(RequestBody):
    type: Literal["image_url"]
    image_url: ChatImageAddress


Content = Annotated[TextContent | ImageContent, Field(discriminator="type")]
TextOnly = str | Annotated[list[TextContent], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]


class SystemMessage(RequestBody):
    role: Literal["system", "developer"]
    content: TextOnly


class UserMessage(RequestBody):
    role: Literal["user"]
    content: str | Annotated[list[Content], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]


class AssistantMessage(RequestBody):
    """An earlier answer; the empty fields are those that the SDK's own message object carries along."""

    role: Literal["assistant"]
    content: TextOnly
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


ChatMessage = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(RequestBody):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class ChatBody(StructureFields, AskingBody):
    long_list = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1), WHOLE] | None = None
    # How tokens are chosen: a field of `Sampling` that has its name here is passed on (`sampling`).
    max_tokens: Annotated[MaxTokens, WHOLE] | None = Field(
        None, description="left out: limits.default_max_tokens, as far as the context holds them"
    )
    max_completion_tokens: Annotated[MaxTokens, WHOLE] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Int64 | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4, fail_fast=True)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[NumLogprobs, WHOLE] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    top_k: Annotated[int, Ge(-1), Le(2**31 - 1), WHOLE] | None = Field(
        None, description="only the k likeliest tokens are chosen from; 0 or -1: all. vLLM's"
    )
    min_p: MinP | None = Field(None, description="only tokens at least this likely, relative to the likeliest. vLLM's")
    repetition_penalty: RepetitionPenalty | None = Field(
        None, description="over 1: what prompt and answer have said already becomes less likely. vLLM's"
    )
    # Without effect here, so accepted: labels for the client's own books, and neutral values of what is not offered.
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    prompt_cache_key: EndUser | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none"] | None = None
    audio: None = None
    prediction: None = None
    functions: None = None
    function_call: None = None
    web_search_options: None = None

    def sampling(self, defaults: Sampling) -> Sampling:
        """What is asked for, and `defaults` where nothing is."""
        given = {name: value for name in _SAMPLING_FIELDS if (value := getattr(self, name, None)) is not None}
        return replace(defaults, **given | self._translated())

    def asked_as(self) -> Mapping[str, str]:
        bound = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        structure = {"constraint": self.structure_field()}
        return {"max_tokens": bound, "logprobs": "top_logprobs", "token_ids": "messages", "images": "messages"} | structure

    def _translated(self) -> dict[str, Any]:
        """The fields that `Sampling` has as another type."""
        bound = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return {
            **({} if bound is None else {"max_tokens": bound}),
            **({} if self.top_k is None else {"top_k": max(self.top_k, 0)}),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "constraint": self.structure(),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }


_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))


class PromptTokensDetails(ResponseBody):
    cached_tokens: int = Field(description="of the prompt, not computed again")


class Usage(ResponseBody):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(ResponseBody):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenEntry(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(ResponseBody):
    content: list[TokenEntry] | None
    refusal: None = None


class AnswerMessage(ResponseBody):
    role: Literal["assistant"]
    content: str
    refusal: None = None


class Choice(ResponseBody):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(ResponseBody):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    triptych: Receipt
