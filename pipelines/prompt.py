"""From messages to tokens: the model's own chat template, with a run of placeholder tokens where a picture stands.

Decides what is a special token (only what the template says; never what a user types) and how many placeholders a picture takes.
Reads tokenizer and configuration files, never weights; knows no HTTP and no stages.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipelines.jobs import ImagePart, Message, TextPart
from stages.checkpoint import Checkpoint
from stages.errors import ConfigurationError, InvalidRequest
from stages.llm.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """`images`: (offset of the first placeholder, number of placeholders, picture), in the order of the prompt."""

    token_ids: tuple[int, ...]
    images: tuple[tuple[int, int, ImagePart], ...] = ()


class ImageRule(Protocol):
    """How a model's prompt shows a picture."""

    @property
    def token(self) -> str:
        """The placeholder."""
        ...

    def num_tokens(self, width: int, height: int) -> int:
        """How many placeholders a picture of this size (pixels) takes."""
        ...


@dataclass(frozen=True, slots=True)
class FixedImageRule:
    """Every picture takes the same number of placeholders."""

    token: str
    count: int

    def num_tokens(self, width: int, height: int) -> int:
        return self.count


class PromptBuilder:
    """For one model. Thread-safe."""

    def __init__(self, tokenizer: Any, images: ImageRule | None) -> None:
        self._tokenizer, self._images = tokenizer, images
        self._special = tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)

    @classmethod
    def load(cls, llm: Checkpoint, *, projector: Checkpoint | None = None) -> "PromptBuilder":
        """Raises `ConfigurationError` where the checkpoint has no tokenizer or no chat template."""
        tokenizer = load_tokenizer(llm.folder)
        if tokenizer.chat_template is None:
            raise ConfigurationError(f"{llm.source} has no chat template; chat needs one")
        return cls(tokenizer, _rule(projector))

    def build(self, messages: Sequence[Message]) -> Prompt:
        """Raises `InvalidRequest` for messages that the model's template refuses."""
        typed = any(self._has_special(part) for message in messages for part in message.parts)
        pieces = self._pieces(messages, typed)
        token_ids: list[int] = []
        images: list[tuple[int, int, ImagePart]] = []
        pending = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        for text, trusted in pieces:
            token_ids += self._encode(text, trusted)
        if self._images is not None and pending:
            images = self._place(token_ids, pending)
        return Prompt(tuple(token_ids), tuple(images))

    def _pieces(self, messages: Sequence[Message], typed: bool) -> list[tuple[str, bool]]:
        """The rendered conversation, cut into what the template says (True) and what people typed (False).

        Cut only where somebody typed a special token: whole, it is tokenized exactly as the model was trained.
        """
        marks: list[tuple[str, str]] = []

        def content(message: Message) -> str:
            return "".join(self._shown(part, marks if typed else None) for part in message.parts)

        rows = [{"role": message.role, "content": content(message)} for message in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}", param="messages") from None
        pieces: list[tuple[str, bool]] = []
        for mark, original in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise InvalidRequest("the model's chat template leaves out a part of these messages", param="messages")
            pieces += [(before, True), (original, False)]
        return [*pieces, (text, True)]

    def _shown(self, part: TextPart | ImagePart, marks: list[tuple[str, str]] | None) -> str:
        if isinstance(part, ImagePart):
            if self._images is None:
                raise InvalidRequest("this model sees no pictures", param=part.param)
            return self._images.token * self._images.num_tokens(part.width, part.height)
        if marks is None or not self._has_special(part):
            return part.text
        marks.append((f"\ue000{len(marks)}\ue001", part.text))
        return marks[-1][0]

    def _has_special(self, part: TextPart | ImagePart) -> bool:
        return isinstance(part, TextPart) and any(token in part.text for token in self._special)

    def _encode(self, text: str, trusted: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not trusted)
        return ids

    def _place(self, token_ids: list[int], pictures: Sequence[ImagePart]) -> list[tuple[int, int, ImagePart]]:
        """Where each picture's run of placeholders begins: they stand in the order of the pictures."""
        rule = self._images
        if rule is None:
            return []
        placeholder = self._tokenizer.convert_tokens_to_ids(rule.token)
        offset, placed = 0, []
        for picture in pictures:
            length = rule.num_tokens(picture.width, picture.height)
            offset = token_ids.index(placeholder, offset)
            placed.append((offset, length, picture))
            offset += length
        return placed


def _rule(projector: Checkpoint | None) -> ImageRule | None:
    if projector is None:
        return None


    from stages.projector import CONFIG_FILE, ProjectorConfig

    if not (projector.folder / CONFIG_FILE).is_file():
        raise ConfigurationError(f"{projector.source} has no {CONFIG_FILE}")
    config = ProjectorConfig(**json.loads((projector.folder / CONFIG_FILE).read_text()))
    return FixedImageRule(config.image_token, config.num_image_tokens)
