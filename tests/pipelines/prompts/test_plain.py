"""Plain texts to tokens and back: whoever asks without a template writes the whole prompt, control tokens included."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from pipelines.jobs import PlainPrompt
from pipelines.prompts.plain import PlainTexts
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Source, resolve
from stages.contract.errors import InvalidRequest
from stages.text.text_tokenizer import TextTokenizer
from tests.stages.llm.tiny_models import save_decoder, tiny_tokenizer

pytestmark = pytest.mark.models


def texts(max_tokens: int | None = None, *, marked: bool = False) -> PlainTexts:
    tokenizer: Any = tiny_tokenizer()
    if marked:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return PlainTexts(
        TextTokenizer.of(tokenizer, param="messages", max_tokens=max_tokens), tokenizer.backend_tokenizer, max_tokens
    )


PLAIN = texts()


@given(st.text())
def test_a_texts_tokens_are_the_text(text: str) -> None:
    read = PLAIN.read(PlainPrompt(text))
    assert PLAIN.text_of(read.token_ids) == text
    again = PLAIN.read(PlainPrompt(read.token_ids))
    assert (again.token_ids, again.text) == (read.token_ids, text)


def test_control_tokens_are_what_they_say() -> None:
    read = PLAIN.read(PlainPrompt("<|im_start|>user\nhi<|im_end|>"))
    assert read.token_ids[0] == 1
    assert read.token_ids[-1] == 2
    assert read.first == "<|im_start|>"
    assert PLAIN.spelled(read.token_ids)[0] == "<|im_start|>"


def test_a_text_gets_the_tokenizers_own_marks_unless_they_are_declined() -> None:
    marked = texts(marked=True)
    read = marked.read(PlainPrompt("hi"))
    assert (read.token_ids[0], read.num_marks, read.first, read.text) == (0, 1, "<|endoftext|>", "hi")
    bare = marked.read(PlainPrompt("hi", has_marks=False))
    assert (bare.token_ids, bare.num_marks) == (read.token_ids[1:], 0)
    assert marked.read(PlainPrompt(read.token_ids)).num_marks == 0


@pytest.mark.parametrize("token", [400, 2**31 - 1])
def test_a_token_that_there_is_not_is_named(token: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"prompt\[1\] is {token}") as error:
        PLAIN.read(PlainPrompt((5, token)))
    assert error.value.param == "prompt[1]"
    with pytest.raises(InvalidRequest, match=r"tokens\[0\]"):
        PLAIN.text_of([token])


def test_a_text_that_is_far_too_long_is_not_read_to_its_end() -> None:
    with pytest.raises(InvalidRequest, match=r"prompt\[3\] has more than .* tokens and the context is 16") as error:
        texts(16).read(PlainPrompt("a b c d " * 10_000, "prompt[3]"))
    assert error.value.param == "prompt[3]"


def test_it_is_the_tokenizer_of_the_models_chats(tmp_path: Path) -> None:
    builder = PromptBuilder.load(resolve(Source(folder=str(save_decoder("llama", tmp_path)))))
    assert builder.plain().read(PlainPrompt("a red circle")).token_ids == tuple(builder.encode("a red circle"))
    note = builder.plain().note
    assert note.end is not None
    assert len(builder.plain().read(PlainPrompt(note.end)).token_ids) == 1
    assert "messages" in (note.chat_template or "")
