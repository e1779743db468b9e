"""What a body says of how tokens are chosen, in a chat as for a plain text: OpenAI's fields, and those of vLLM and SGLang.

Decides what each means as `Sampling`. How long an answer may be, and what of it is told, is each body's own. Knows no models.
"""

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field

from pipelines.ingress.schemas.strict import WHOLE, EndUser, Int64, RequestBody
from stages.llm.messages import Bias, MinP, Penalty, RepetitionPenalty, Sampling, Temperature

TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
NothingListed = Annotated[list[Any], Field(max_length=0)]
MAX_STOPS = 32  # OpenAI takes 4; evaluation harnesses send more
StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class SamplingFields(RequestBody):
    """A field of `Sampling` that has its name here is passed on as it is."""

    temperature: Temperature | None = None
    top_p: Annotated[float, Ge(0), Le(1)] | None = Field(None, description="0: the likeliest token")
    seed: Int64 | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
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
    no_stop_trim: bool | None = Field(None, description="as include_stop_str_in_output. SGLang's")
    # Without effect here, so accepted: labels, what is so in any case, and of what is not offered the value that asks for nothing,
    # since clients written for vLLM or SGLang send their defaults along.
    rid: EndUser | None = None
    session_id: EndUser | None = None
    spaces_between_special_tokens: bool | None = None
    use_beam_search: Literal[False] | None = None
    length_penalty: Annotated[float, Ge(1), Le(1)] | None = None
    priority: Literal[0] | None = Field(None, description="any other is said as triptych.priority")
    bad_words: NothingListed | None = None
    allowed_token_ids: NothingListed | None = None
    logprob_token_ids: NothingListed | None = None
    return_hidden_states: Literal[False] | None = None
    return_token_offsets: Literal[False] | None = None
    return_routed_experts: Literal[False] | None = None
    return_cached_tokens_details: Literal[False] | None = None
    thinking_token_budget: None = None
    truncate_prompt_tokens: None = None
    truncation_side: None = None
    prompt_logprobs: None = None
    prompt_embeds: None = None
    input_ids: None = None
    stop_regex: None = None
    lora_path: None = None
    cache_salt: None = None
    extra_key: None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    bootstrap_host: None = None
    bootstrap_port: None = None
    bootstrap_room: None = None
    data_parallel_rank: None = None
    session_params: None = None
    custom_logit_processor: None = None
    custom_params: None = None
    vllm_xargs: None = None
    repetition_detection: None = None
    stream_interval: None = None
    watermarking: None = None

    def chosen_by(self, defaults: Sampling, **own: Any) -> Sampling:
        """What is asked for, and `defaults` where nothing is; `own`: what the body says beside these fields."""
        given = {name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None}
        return replace(defaults, **given | self._translated() | own)

    def _translated(self) -> dict[str, Any]:
        """The fields that `Sampling` has as another type."""
        return {
            **({} if self.top_k is None else {"top_k": max(self.top_k, 0)}),
            **({"temperature": 0.0, "top_p": 1.0} if self.top_p == 0 else {}),
            **({"include_stop_str_in_output": True} if self.no_stop_trim else {}),
            "stop_token_ids": tuple(dict.fromkeys(self.stop_token_ids or ())),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }


_PASSED_ON = tuple(field.name for field in fields(Sampling) if field.name in SamplingFields.model_fields)
