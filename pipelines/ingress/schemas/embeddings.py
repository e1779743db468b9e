"""POST /v1/embeddings: the body and the answer. Texts and images, alone or mixed, in one space.

A string is always a text, a data URL too; an image is an object, as in chat: `{"type": "image_url", "image_url": {"url":
...}}`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import AskingBody, EndUser, ImageAddress, RequestBody, ResponseBody


class TextInput(RequestBody):
    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class ImageInput(RequestBody):
    type: Literal["image_url"]
    image_url: ImageAddress


def _no_tokens(value: object) -> object:
    """Clients that cut texts to another model's length send its tokens, which mean other words here."""
    members = value if isinstance(value, list) else [value]
    if any(isinstance(member, int) or (isinstance(member, list) and member) for member in members[:1]):
        raise ValueError(
            "must be texts or images, not token ids: they are another tokenizer's; "
            "langchain_openai.OpenAIEmbeddings sends texts with check_embedding_ctx_length=False"
        )
    return value


PlainText = Annotated[str, Field(min_length=1)]
EmbeddingInput = PlainText | Annotated[TextInput | ImageInput, Field(discriminator="type")]


class EmbeddingsBody(AskingBody):
    token_lists: ClassVar[frozenset[str]] = frozenset({"input"})  # to be refused as such

    input: Annotated[
        EmbeddingInput | Annotated[list[EmbeddingInput], Field(min_length=1, max_length=4096, fail_fast=True)],
        BeforeValidator(_no_tokens),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    # Without effect here, so accepted.
    user: EndUser | None = None
    dimensions: None = None


class EmbeddingEntry(ResponseBody):
    """`embedding`: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(ResponseBody):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(ResponseBody):
    object: Literal["list"]
    model: str
    data: list[EmbeddingEntry]
    usage: EmbeddingsUsage
    triptych: Receipt
