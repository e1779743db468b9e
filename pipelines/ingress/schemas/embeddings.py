"""POST /v1/embeddings: the body and the answer. Texts and images, alone or mixed, in one space.

A string is always a text, a data URL too; an image is an object, as in chat: `{"type": "image_url", "image_url": {"url":
...}}`.
"""

from typing import Annotated, Literal

from pydantic import Field

from pipelines.ingress.schemas.receipt import Receipt
from pipelines.ingress.schemas.strict import AskingBody, EndUser, ImageAddress, RequestBody, ResponseBody


class TextInput(RequestBody):
    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]


class ImageInput(RequestBody):
    type: Literal["image_url"]
    image_url: ImageAddress


PlainText = Annotated[str, Field(min_length=1)]
EmbeddingInput = PlainText | Annotated[TextInput | ImageInput, Field(discriminator="type")]


class EmbeddingsBody(AskingBody):
    input: EmbeddingInput | Annotated[list[EmbeddingInput], Field(min_length=1, max_length=4096, fail_fast=True)]
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
