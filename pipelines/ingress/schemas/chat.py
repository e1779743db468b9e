"""POST /v1/chat/completions: the body.

A field that OpenAI has and Triptych has not is declared only where a neutral value of it does nothing (`audio: null`), or where what it
asks for is a label or a hint; everything else undeclared is refused by name. Knows no models and no configured limits.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict, Field

from pipelines.ingress.schemas.chats.messages import MAX_MESSAGES, ChatMessage
from pipelines.ingress.schemas.chats.template import TemplateFields
from pipelines.ingress.schemas.chats.tools import ToolFields
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, Int64, RequestBody
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
)


class StreamOptions(RequestBody):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool | None = None


TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class ChatBody(StructureFields, ToolFields, TemplateFields, AskingBody):
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
    top_p: Annotated[float, Ge(0), Le(1)] | None = Field(None, description="0: the likeliest token")
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
    min_tokens: Annotated[int, Ge(0), WHOLE] | None = Field(None, description="before so many nothing ends the answer. vLLM's")
    ignore_eos: bool | None = Field(None, description="the model's own end doesn't end the answer. vLLM's")
    stop_token_ids: Annotated[list[Annotated[int, Ge(0), WHOLE]], Field(max_length=1024, fail_fast=True)] | None = None
    include_stop_str_in_output: bool | None = Field(None, description="what ended the answer is shown. vLLM's")
    skip_special_tokens: bool | None = Field(None, description="false: they are shown. vLLM's")
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
    spaces_between_special_tokens: bool | None = None
    use_beam_search: Literal[False] | None = None
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
            **({"temperature": 0.0, "top_p": 1.0} if self.top_p == 0 else {}),
            "stop_token_ids": tuple(dict.fromkeys(self.stop_token_ids or ())),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "logprobs": (self.top_logprobs or 0) if self.logprobs else None,
            "constraint": self.structure(),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }


_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))
