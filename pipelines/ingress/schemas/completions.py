"""POST /v1/completions: the body and the answer. A prompt is a text or its tokens; several are answered in one request.

Knows no models and no configured limits.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Field

from pipelines.ingress.schemas.chat import StreamOptions
from pipelines.ingress.schemas.chats.answer import Usage
from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.sampling import SamplingFields
from pipelines.ingress.schemas.strict import WHOLE, AskingBody, EndUser, ResponseBody
from pipelines.ingress.schemas.structure import StructureFields
from stages.llm.messages import NumLogprobs, Sampling

DEFAULT_MAX_TOKENS = 16  # OpenAI's, of plain texts only
MAX_PROMPTS = 4096

TokenId = Annotated[int, Ge(0), Le(2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


class CompletionsBody(SamplingFields, StructureFields, AskingBody):
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
    # Without effect here, so accepted; and neutral values of what is not offered.
    user: EndUser | None = None
    request_id: EndUser | None = None
    return_token_ids: Literal[False] | None = None
    suffix: None = None

    def sampling(self, defaults: Sampling) -> Sampling:
        """What is asked for, and `defaults` where nothing is, but for the bound. With `echo`, log probabilities are the prompt's, too."""
        return self.chosen_by(
            defaults,
            max_tokens=DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=self.logprobs if self.echo else None,
            constraint=self.structure(),
        )

    def asked_as(self) -> Mapping[str, str]:
        structure = {"constraint": self.structure_field()}
        return {"token_ids": "prompt", "messages": "prompt", "prompt_logprobs": "logprobs"} | structure


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
