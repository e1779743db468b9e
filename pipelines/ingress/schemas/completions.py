"""POST /v1/completions: the body and the answer. A prompt is a text or its tokens; several are answered in one request.

Knows no models and no configured limits.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Field

from pipelines.ingress.schemas.chat import StopText, StreamOptions, TokenKey
from pipelines.ingress.schemas.chats.answer import Usage
from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, Int64, ResponseBody
from pipelines.ingress.schemas.structure import StructureFields
from stages.llm.messages import Bias, MinP, NumLogprobs, Penalty, RepetitionPenalty, Sampling, Temperature, TopP

DEFAULT_MAX_TOKENS = 16  # OpenAI's, of plain texts only
MAX_PROMPTS = 4096

TokenId = Annotated[int, Ge(0), Le(2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class CompletionsBody(StructureFields, AskingBody):
    token_lists: ClassVar[frozenset[str]] = frozenset({"prompt"})

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1), WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="as n, or left out")
    echo: bool | None = Field(None, description="the answer begins with the prompt; with logprobs, its tokens' too")
    max_tokens: Annotated[int, Ge(0), WHOLE] | None = Field(
        None, description="left out: 16; 0: the prompt is only read, for echo"
    )
    logprobs: Annotated[NumLogprobs, WHOLE] | None = None
    add_special_tokens: bool | None = Field(None, description="false: no begin token before a text. vLLM's")
    # How tokens are chosen: a field of `Sampling` that has its name here is passed on (`sampling`).
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Int64 | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4, fail_fast=True)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=1024)] | None = None
    top_k: Annotated[int, Ge(-1), Le(2**31 - 1), WHOLE] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    # Without effect here, so accepted; and neutral values of what is not offered.
    user: EndUser | None = None
    suffix: None = None

    def sampling(self, defaults: Sampling) -> Sampling:
        """What is asked for, and `defaults` where nothing is, but for the bound. With `echo`, log probabilities are the prompt's, too."""
        given = {name: value for name in _SAMPLING_FIELDS if (value := getattr(self, name, None)) is not None}
        return replace(defaults, **given | self._translated())

    def asked_as(self) -> Mapping[str, str]:
        structure = {"constraint": self.structure_field()}
        return {"token_ids": "prompt", "messages": "prompt", "prompt_logprobs": "logprobs"} | structure

    def _translated(self) -> dict[str, Any]:
        """The fields that `Sampling` has as another type."""
        return {
            "max_tokens": DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            **({} if self.top_k is None else {"top_k": max(self.top_k, 0)}),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
            "constraint": self.structure(),
            "prompt_logprobs": self.logprobs if self.echo else None,
        }


_SAMPLING_FIELDS = tuple(field.name for field in fields(Sampling))


class CompletionLogprobs(ResponseBody):
    """Of each token of the text. The first of a prompt has none: null. `top_logprobs`: of the likeliest tokens by their texts, with the
    token's own. `text_offset`: the character of the choice's text with which a token begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(ResponseBody):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(ResponseBody):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    triptych: Receipt
