"""What a body says of how tokens are chosen, in a chat as for a plain text: OpenAI's fields, and those of vLLM.

Decides what each means as `Sampling`. How long an answer may be, and what of it is told, is each body's own. Knows no models.
"""

from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import Field

from pipelines.ingress.schemas.strict import WHOLE, Int64, RequestBody
from stages.llm.messages import Bias, MinP, Penalty, RepetitionPenalty, Sampling, Temperature

TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]
StopText = Annotated[str, Field(min_length=1, max_length=1024)]


class SamplingFields(RequestBody):
    """A field of `Sampling` that has its name here is passed on as it is."""

    temperature: Temperature | None = None
    top_p: Annotated[float, Ge(0), Le(1)] | None = Field(None, description="0: the likeliest token")
    seed: Int64 | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=4, fail_fast=True)] | None = None
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
    # Without effect here, so accepted: what is so in any case.
    spaces_between_special_tokens: bool | None = None
    use_beam_search: Literal[False] | None = None

    def chosen_by(self, defaults: Sampling, **own: Any) -> Sampling:
        """What is asked for, and `defaults` where nothing is; `own`: what the body says beside these fields."""
        given = {name: value for name in _PASSED_ON if (value := getattr(self, name)) is not None}
        return replace(defaults, **given | self._translated() | own)

    def _translated(self) -> dict[str, Any]:
        """The fields that `Sampling` has as another type."""
        return {
            **({} if self.top_k is None else {"top_k": max(self.top_k, 0)}),
            **({"temperature": 0.0, "top_p": 1.0} if self.top_p == 0 else {}),
            "stop_token_ids": tuple(dict.fromkeys(self.stop_token_ids or ())),
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }


_PASSED_ON = tuple(field.name for field in fields(Sampling) if field.name in SamplingFields.model_fields)
