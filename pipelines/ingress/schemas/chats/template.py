"""What of a chat's body says how its messages are written as a prompt: transformers' and vLLM's fields, and OpenAI's of how much a model
thinks and says.

Decides which of the template's own settings each of them is, and how large those may be. Knows no template: whether it looks at a setting
is found out where the prompt is made.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from pipelines.ingress.schemas.strict import RequestBody
from pipelines.jobs import TemplateOptions
from stages.contract.errors import InvalidRequest

MAX_VARIABLES = 32
MAX_NUMBER = 1_000_000  # a template may repeat a text as often
MAX_CHARS = 8192
MAX_LEVELS = 4
RESERVED = frozenset(
    {
        *(
            "messages",
            "conversation",
            "tools",
            "documents",
            "chat_template",
            "add_generation_prompt",
            "continue_final_message",
        ),
        *("tokenize", "tokenizer_kwargs", "processor_kwargs", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "sanitize_control_tokens", "load_audio_from_video"),
        *("bos_token", "eos_token", "unk_token", "pad_token"),
    }
)
"""What is said elsewhere, or is not for clients to say."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
THINKING = ("enable_thinking", "thinking")
"""What templates call it that can be written with and without a thought."""


class TemplateFields(RequestBody):
    """Those fields of a body."""

    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="settings of the model's chat template, such as enable_thinking"
    )
    add_generation_prompt: bool | None = Field(None, description="false: the prompt ends with the last message")
    continue_final_message: bool | None = Field(None, description="the answer goes on with the last message")
    echo: bool | None = Field(None, description="with continue_final_message: the answer begins with that message. vLLM's")
    reasoning_effort: Effort | None = Field(None, description="for models whose template knows it; none: without thinking")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="for models whose template knows it")
    chat_template: None = None
    documents: None = None

    def template_options(self) -> TemplateOptions:
        """Raises `InvalidRequest` for settings that are too large, and for fields that don't go together."""
        continues = bool(self.continue_final_message)
        if continues and self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt and continue_final_message exclude one another; give one",
                param="continue_final_message",
            )
        variables = {} if self.chat_template_kwargs is None else self.chat_template_kwargs
        _check(variables)
        asked = [*self._openais(), *((f"chat_template_kwargs.{name}", {name: value}) for name, value in variables.items())]
        return TemplateOptions(
            variables={name: value for _, said in asked for name, value in said.items()},
            asked={field: tuple(said) for field, said in asked},
            begins_answer=self.add_generation_prompt is not False and not continues,
            continues=continues,
            echoes=bool(self.echo),
        )

    def _openais(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """OpenAI's fields, and what templates call them."""
        said: list[tuple[str, Mapping[str, Any]]] = []
        if self.reasoning_effort is not None:
            off = dict.fromkeys(THINKING, False) if self.reasoning_effort == "none" else {}
            said.append(("reasoning_effort", {"reasoning_effort": self.reasoning_effort, **off}))
        if self.verbosity is not None:
            said.append(("verbosity", {"verbosity": self.verbosity}))
        return said


def _check(variables: Mapping[str, Any]) -> None:
    param = "chat_template_kwargs"
    if len(variables) > MAX_VARIABLES:
        raise InvalidRequest(f"{param} has {len(variables)} members; at most {MAX_VARIABLES}", param=param)
    for name in variables:
        if not name.isidentifier() or name.startswith("_") or name in RESERVED:
            raise InvalidRequest(f"{param}.{name[:64]} is no setting of a template", param=param)
    left = MAX_CHARS
    level: list[Any] = [dict(variables)]
    for _ in range(MAX_LEVELS + 1):
        left -= sum(_size(value, param) for value in level)
        level = [inner for value in level for inner in _inside(value)]
        if left < 0:
            raise InvalidRequest(f"{param} is larger than {MAX_CHARS} characters", param=param)
    if level:
        raise InvalidRequest(f"{param} is nested more than {MAX_LEVELS} levels deep", param=param)


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _size(value: Any, param: str) -> int:
    if isinstance(value, int | float) and not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise InvalidRequest(f"{param} holds {value}; numbers are at most {MAX_NUMBER}", param=param)
    if isinstance(value, dict):
        return sum(map(len, value)) + 1
    return len(value) + 1 if isinstance(value, str) else 1
