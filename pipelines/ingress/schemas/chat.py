"""POST /v1/chat/completions: the body.

A field that OpenAI has and Triptych has not is declared only where a neutral value of it does nothing (`audio: null`), or where what it
asks for is a label or a hint; everything else undeclared is refused by name. Knows no models and no configured limits.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from pipelines.ingress.schemas.chats.messages import MAX_MESSAGES, ChatMessage
from pipelines.ingress.schemas.chats.template import TemplateFields
from pipelines.ingress.schemas.chats.tools import ToolFields
from pipelines.ingress.schemas.sampling import SamplingFields
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, RequestBody
from pipelines.ingress.schemas.structure import StructureFields
from stages.llm.messages import MaxTokens, NumLogprobs, Sampling


class StreamOptions(RequestBody):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None


class ChatBody(SamplingFields, StructureFields, ToolFields, TemplateFields, AskingBody):
    long_list = "messages"

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1), WHOLE] | None = None
    max_tokens: Annotated[MaxTokens, WHOLE] | None = Field(
        None, description="left out: limits.default_max_tokens, as far as the context holds them"
    )
    max_completion_tokens: Annotated[MaxTokens, WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[NumLogprobs, WHOLE] | None = None
    # Without effect here, so accepted: labels for the client's own books, hints, and neutral values of what is not offered.
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    prompt_cache_key: EndUser | None = None
    prompt_cache_retention: Annotated[str, Field(max_length=64)] | None = None
    prompt_cache_options: dict[str, Any] | None = None
    request_id: EndUser | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    prediction: dict[str, Any] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    separate_reasoning: Literal[True] | None = None
    include_reasoning: Literal[True] | None = None
    stream_reasoning: Literal[True] | None = None
    add_special_tokens: Literal[False] | None = None
    best_of: Literal[1] | None = None
    return_prompt_text: Literal[False] | None = None
    return_mm_kwargs: Literal[False] | None = None
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    media_io_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    return_token_ids: Literal[False] | None = None
    return_tokens_as_token_ids: Literal[False] | None = None
    audio: None = None
    web_search_options: None = None

    def without_effect(self) -> Mapping[str, str]:
        """By field, why it does not do what it might have done."""
        told: dict[str, str] = {}
        if self.store:
            told["store"] = "no effect: answers are not stored"
        if self.service_tier not in (None, "auto", "default"):
            told["service_tier"] = "no effect: say triptych.priority"
        if self.prediction is not None:
            told["prediction"] = "no effect: what is predicted is not tried first"
        return told

    def sampling(self, defaults: Sampling) -> Sampling:
        """What is asked for, and `defaults` where nothing is."""
        bound = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        own = {} if bound is None else {"max_tokens": bound}
        return self.chosen_by(defaults, logprobs=logprobs, constraint=self.structure(), **own)

    def asked_as(self) -> Mapping[str, str]:
        bound = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        structure = {"constraint": self.structure_field()}
        return {"max_tokens": bound, "logprobs": "top_logprobs", "token_ids": "messages", "images": "messages"} | structure
