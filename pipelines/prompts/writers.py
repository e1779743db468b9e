"""How one kind of model writes a conversation: its template, and what stands for an image in it.

Decides what a message's content is to a template: a text, or parts. Knows no tokens but the one that stands for an image.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.jobs import ImagePart, TextPart
from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.vision.vlm.placeholders import num_image_patches, num_image_tokens

Entry = Mapping[str, Any]
"""A message as templates take it."""


class PromptWriter(Protocol):
    """How one kind of model writes a conversation."""

    @property
    def template(self) -> str: ...

    @property
    def image_token(self) -> str | None: ...

    def num_image_tokens(self, image: ImagePart) -> int: ...

    def num_image_patches(self, image: ImagePart) -> int: ...

    def content(self, parts: Sequence[TextPart | ImagePart]) -> object:
        """What a message says, as the template takes it. Raises `InvalidRequest` for images that the model can't see."""
        ...

    def render(self, conversation: Sequence[Entry], tools: Sequence[Entry] = (), **variables: Any) -> str:
        """The template's text, with one image token (or all of them) for each image. `variables`: the template's own, and transformers'
        `add_generation_prompt` and `continue_final_message`."""
        ...

    def adds_special_tokens(self, text: str) -> bool:
        """Whether tokenizing adds the tokenizer's own begin token."""
        ...


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Which token, and how many of it, stand for an image in a text-only model with a projector."""

    token: str
    num_tokens: int

    @classmethod
    def load(cls, projector: Checkpoint) -> "Placeholder":
        path = projector.folder / "config.json"
        try:
            config = json.loads(path.read_text())
            return cls(str(config["image_token"]), int(config["num_image_tokens"]))
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(f"{projector.source} is no projector: {path.name}: {error}") from error


class TextPromptWriter:
    """A text-only model; with an `Placeholder`, one that was taught to see through a projector.

    Messages are strings, the texts of one joined by line ends. A message's only image comes first, right before its text,
    wherever it stands, because that is how a projector is trained (`ProjectorConfig.place_image`); several stay at their
    places.
    """

    def __init__(self, tokenizer: Any, placeholder: Placeholder | None) -> None:
        self._tokenizer, self._placeholder = tokenizer, placeholder

    @property
    def template(self) -> str:
        return str(self._tokenizer.chat_template)

    @property
    def image_token(self) -> str | None:
        return self._placeholder.token if self._placeholder is not None else None

    def num_image_tokens(self, image: ImagePart) -> int:
        if self._placeholder is None:
            raise InvalidRequest("this model sees no images", param=image.param)
        return self._placeholder.num_tokens

    def num_image_patches(self, image: ImagePart) -> int:
        """A projector has a token for each."""
        return self.num_image_tokens(image)

    def content(self, parts: Sequence[TextPart | ImagePart]) -> str:
        images = [part for part in parts if isinstance(part, ImagePart)]
        if images and self._placeholder is None:
            raise InvalidRequest("this model sees no images", param=images[0].param)
        ordered = sorted(parts, key=lambda part: isinstance(part, TextPart)) if len(images) == 1 else parts
        content = ""
        after_text = False
        for part in ordered:
            if isinstance(part, TextPart):
                content += ("\n" if after_text else "") + part.text
            elif self._placeholder is not None:
                content += self._placeholder.token
            after_text = isinstance(part, TextPart)
        return content

    def render(self, conversation: Sequence[Entry], tools: Sequence[Entry] = (), **variables: Any) -> str:
        return str(
            self._tokenizer.apply_chat_template(list(conversation), tools=list(tools) or None, tokenize=False, **variables)
        )

    def adds_special_tokens(self, text: str) -> bool:
        return False


class ProcessorPromptWriter:
    """A vision-language model of `transformers`: its processor knows the template and the placeholders."""

    def __init__(self, processor: Any, patch_size: int) -> None:
        self._processor, self._patch_size = processor, patch_size

    @property
    def template(self) -> str:
        return str(self._processor.chat_template or self._processor.tokenizer.chat_template)

    @property
    def image_token(self) -> str | None:
        return str(self._processor.image_token)

    def num_image_tokens(self, image: ImagePart) -> int:
        return num_image_tokens(self._processor, image.height, image.width)

    def num_image_patches(self, image: ImagePart) -> int:
        return num_image_patches(self._processor, self._patch_size, image.height, image.width)

    def content(self, parts: Sequence[TextPart | ImagePart]) -> list[dict[str, str]]:
        return [{"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"} for part in parts]

    def render(self, conversation: Sequence[Entry], tools: Sequence[Entry] = (), **variables: Any) -> str:
        return str(
            self._processor.apply_chat_template(list(conversation), tools=list(tools) or None, tokenize=False, **variables)
        )

    def adds_special_tokens(self, text: str) -> bool:
        begin = self._processor.tokenizer.bos_token
        return begin is None or not text.startswith(begin)
