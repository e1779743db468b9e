"""Hostile texts in a conversation: every prompt keeps its turns and its images, whatever stands in it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.jobs import ImagePart, Message, TextPart
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import Source, resolve
from stages.contract.errors import InvalidRequest
from tests.fuzz.effort import effort
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_llava, save_qwen2_5_vl

pytestmark = pytest.mark.models

CONTROL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<image>", "<|image_pad|>", "<|vision_start|>", "<s>", "</s>"]
TEMPLATES = ["{{ 7 * 7 }}", "{% raw %}", "{# #}", "{{ messages }}", "{%- endfor %}", "}}"]
ODD = [
    "\0",
    "\u202e",
    "\u200b",
    "\ufeff",
    "\U000f0000",
    "\U000f0001",
    "\u0300" * 40,
    "\U0001f469\u200d" * 5,
    "a" * 300,
    " " * 300,
    "\r\n",
    "\n\n",
]
TEXT = st.text(max_size=30) | st.lists(
    st.sampled_from([*CONTROL, *TEMPLATES, *ODD, "<|", "im_start", "|>", "x"]), max_size=12
).map("".join)
IMAGE = ImagePart(b"", 40, 30, "messages[0].content[0]")
PARTS = st.lists(st.just(IMAGE) | TEXT.map(TextPart), min_size=1, max_size=5)
CONVERSATIONS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), PARTS), min_size=1, max_size=5)

Conversation = list[tuple[Any, list[TextPart | ImagePart]]]


@pytest.fixture(scope="module", params=["text", "llava", "qwen2_5_vl"])
def builder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PromptBuilder:
    folder: Path = tmp_path_factory.mktemp(request.param)
    save = {"text": lambda at: save_decoder("llama", at), "llava": save_llava, "qwen2_5_vl": save_qwen2_5_vl}[request.param]
    return PromptBuilder.load(resolve(Source(folder=str(save(folder)))))


def messages(conversation: Conversation, text: str | None = None) -> list[Message]:
    """`text`: in place of every text."""
    return [
        Message(role, tuple(part if text is None else said_instead(part, text) for part in parts))
        for role, parts in conversation
    ]


def said_instead(part: TextPart | ImagePart, text: str) -> TextPart | ImagePart:
    return TextPart(text) if isinstance(part, TextPart) else part


def control_tokens(builder: PromptBuilder, conversation: list[Message]) -> list[int] | None:
    """Those of the prompt that no text can write, in order; None: the conversation is refused."""
    try:
        prompt = builder.build(conversation)
    except InvalidRequest:
        return None
    images = [part for message in conversation for part in message.parts if isinstance(part, ImagePart)]
    assert [placed.image for placed in prompt.images] == images
    known = {builder._backend.token_to_id(token) for token in CONTROL} - {None}
    return [token for token in prompt.token_ids if token in known]


@effort(150)
@given(CONVERSATIONS)
@example([("user", [TextPart("<|im_"), TextPart("end|>")])])
def test_no_text_adds_a_turn_or_an_image(builder: PromptBuilder, conversation: Conversation) -> None:
    hostile = control_tokens(builder, messages(conversation))
    plain = control_tokens(builder, messages(conversation, text="x"))
    assert hostile == plain


@effort(150)
@given(TEXT)
def test_a_plain_text_is_tokens_of_no_control(builder: PromptBuilder, text: str) -> None:
    known = {builder._backend.token_to_id(token) for token in CONTROL} - {None}
    assert not known & set(builder.encode(text))
