"""POST /tokenize and /detokenize, and GET /tokenizer_info, as vLLM has them: the bodies and the answers.

A conversation is described as in a chat, whose own body checks it (`routes/tokens.py`), so it is any JSON here.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from pipelines.ingress.schemas.completions import TokenId
from pipelines.ingress.schemas.strict import AskingBody, ResponseBody, UnsaidModelId


class TokenizeBody(AskingBody):
    """A text, or a conversation as /v1/chat/completions takes it."""

    is_run: ClassVar[bool] = False
    model: UnsaidModelId = ""
    prompt: str | None = None
    add_special_tokens: bool | None = Field(
        None, description="of a text: with the tokenizer's own begin and end; left out: true"
    )
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


OF_CHATS = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
"""What is handed on to a chat's body, with `messages`."""


class Tokenized(ResponseBody):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeBody(AskingBody):
    token_lists: ClassVar[frozenset[str]] = frozenset({"tokens"})

    is_run: ClassVar[bool] = False
    model: UnsaidModelId = ""
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class Detokenized(ResponseBody):
    prompt: str


class TokenizerInfo(ResponseBody):
    """Null: the tokenizer has no such token."""

    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
    model_max_length: int
