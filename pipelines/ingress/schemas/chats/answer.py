"""The whole answer to a chat, as its client gets it. Knows no stages."""

from typing import Literal

from pydantic import Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import ResponseBody


class PromptTokensDetails(ResponseBody):
    cached_tokens: int = Field(description="of the prompt, not computed again")


class CompletionTokensDetails(ResponseBody):
    reasoning_tokens: int = Field(description="of the answer, thought before it was given")


class Usage(ResponseBody):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


class TopLogprob(ResponseBody):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenEntry(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(ResponseBody):
    content: list[TokenEntry] | None
    refusal: None = None


class CalledFunction(ResponseBody):
    name: str
    arguments: str = Field(description="JSON text")


class ToolCall(ResponseBody):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(ResponseBody):
    """`content` is null where the model only called, or came no further than its thoughts."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class Choice(ResponseBody):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(ResponseBody):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    triptych: Receipt
