"""From a conversation to the model's own prompt: token ids, and where each image's features go.

Applies the checkpoint's chat template, puts as many placeholder tokens as the image will have features, and reads control
tokens in a user's text as text. Loads tokenizer, processor and configuration files; knows no weights, no stages and no
HTTP. Everything here is CPU work (milliseconds): call `build` off the event loop, from any thread.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError

from pipelines.jobs import ImagePart, Message, TextPart
from pipelines.prompts.control_tokens import ControlTokens, unused_mark
from pipelines.prompts.render_bounds import rendering_bounded, watch_templates
from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError, InvalidRequest, TriptychError
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.tokenizer import gguf_file, load_tokenizer
from stages.text.text_tokenizer import TextTokenizer
from stages.vision.placeholders import num_image_patches, num_image_tokens


@dataclass(frozen=True, slots=True)
class Prompt:
    """`images`: of the placeholder tokens, in order."""

    token_ids: tuple[int, ...]
    images: tuple["PlacedImage", ...] = ()


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """`length` placeholder tokens from `offset`, for an image that its tower sees as `num_patches`."""

    offset: int
    length: int
    image: ImagePart
    num_patches: int


class PromptWriter(Protocol):
    """How one kind of model writes a conversation."""

    @property
    def template(self) -> str: ...

    @property
    def image_token(self) -> str | None: ...

    def num_image_tokens(self, image: ImagePart) -> int: ...

    def num_image_patches(self, image: ImagePart) -> int: ...

    def render(self, messages: Sequence[Message]) -> str:
        """The template's text, with one image token (or all of them) for each image."""
        ...

    def adds_special_tokens(self, text: str) -> bool:
        """Whether tokenizing adds the tokenizer's own begin token."""
        ...


class PromptBuilder:
    """For one model; thread-safe. `max_tokens`: a prompt of far more is refused before it is read to its end."""

    def __init__(self, tokenizer: Any, writer: PromptWriter, checkpoint: Checkpoint, max_tokens: int | None = None) -> None:
        self._writer, self._checkpoint, self._max_tokens = writer, checkpoint, max_tokens
        self._backend = tokenizer.backend_tokenizer
        self._texts = TextTokenizer.of(tokenizer, param="messages", max_tokens=max_tokens)
        self._image_token_id = self._backend.token_to_id(writer.image_token) if writer.image_token else None
        added = tokenizer.added_tokens_decoder.values()
        written = {token.content for token in added if token.special or _is_written(token.content, writer.template)}
        self._control = ControlTokens(written | ({writer.image_token} if writer.image_token else set()))

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, projector: Checkpoint | None = None, max_tokens: int | None = None
    ) -> "PromptBuilder":
        """`projector`: of a model made of an open_clip tower, a projector and a text-only language model. Raises
        `ConfigurationError` for a checkpoint without tokenizer or chat template."""
        from stages.vision.vlm_files import VLM_PARTS

        ensure_torchvision()
        watch_templates()
        if gguf_file(checkpoint.folder) is None and (config := _load_config(checkpoint)).model_type in VLM_PARTS:
            processor = _load_processor(checkpoint)
            writer = ProcessorPromptWriter(processor, int(config.vision_config.patch_size))
            return cls(processor.tokenizer, writer, checkpoint, max_tokens)
        tokenizer = load_tokenizer(checkpoint.folder)
        _check_template(checkpoint, tokenizer.chat_template)
        placeholder = Placeholder.load(projector) if projector is not None else None
        return cls(tokenizer, TextPromptWriter(tokenizer, placeholder), checkpoint, max_tokens)

    @property
    def max_context_tokens(self) -> int | None:
        """The longest context that the model was made for; None where it does not say. Reads files."""
        limit = getattr(_load_config(self._checkpoint).get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit is not None else None

    def num_chars(self, messages: Sequence[Message]) -> int:
        """Of all texts together, and of what stands for the images. Raises `InvalidRequest` for images that the model can't see."""
        token = self._writer.image_token or ""
        return sum(
            len(part.text) if isinstance(part, TextPart) else len(token) * self._writer.num_image_tokens(part)
            for message in messages
            for part in message.parts
        )

    def build(self, messages: Sequence[Message]) -> Prompt:
        """Raises `InvalidRequest` for a conversation that the model's template refuses (such as two user messages in a row), that
        its tokenizer can't read, that is far too long, or that takes the template too long; `Cancelled` once nobody waits for it."""
        images = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
        mark = unused_mark(part.text for message in messages for part in message.parts if isinstance(part, TextPart))
        text = self._rendered([self._harmless(message, mark) for message in messages])
        token_ids = self._tokenized(self._with_placeholders(text, images), mark)
        return Prompt(tuple(token_ids), tuple(self._spans(token_ids, images)))

    def _rendered(self, messages: Sequence[Message]) -> str:
        try:
            with rendering_bounded():
                return self._writer.render(messages)
        except TriptychError:
            raise
        except Exception as error:  # a template is a program: what it fails on is in these messages
            told = f"refuses these messages: {error}" if type(error) is TemplateError else "cannot take these messages"
            raise InvalidRequest(f"the model's chat template {told}", param="messages") from error

    def encode(self, text: str) -> Sequence[int]:
        """A plain text's tokens: no template, no begin token, and control tokens read as text."""
        mark = unused_mark([text])
        return self._encoded(self._control.broken(text, mark), mark)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the whole prompt."""
        return len(self.build(messages).token_ids)

    def _harmless(self, message: Message, mark: str) -> Message:
        """The message with broken control tokens. Only an image's placeholders keep two texts of it apart."""
        parts: list[TextPart | ImagePart] = []
        run: list[str] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                run.append(part.text)
                continue
            parts += [*map(TextPart, self._control.broken_apart(run, mark)), part]
            run = []
        parts += map(TextPart, self._control.broken_apart(run, mark))
        return Message(message.role, tuple(parts))

    def _with_placeholders(self, text: str, images: Sequence[ImagePart]) -> str:
        token = self._writer.image_token
        if token is None or not images:
            return text
        pieces = text.split(token)
        if len(pieces) - 1 != len(images):
            raise InvalidRequest(
                f"the model's chat template shows {len(pieces) - 1} of the request's {len(images)} images; "
                "put images into user messages only",
                param="messages",
            )
        whole = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            whole += token * self._writer.num_image_tokens(image) + piece
        return whole

    def _tokenized(self, text: str, mark: str) -> Sequence[int]:
        if not self._writer.adds_special_tokens(text):
            return self._encoded(text, mark)
        first, *rest = text.split(mark)
        marked = [*self._texts.begin, *self._encoded(first, mark), *self._texts.end]
        return [*marked, *self._encoded(mark.join(rest), mark)]

    def _encoded(self, text: str, mark: str) -> Sequence[int]:
        reading = self._texts.read(*text.split(mark))
        if not reading.is_whole:
            raise InvalidRequest(
                f"messages have {reading.told} tokens and the context is {self._max_tokens} (models.*.llm.max_context_tokens); "
                "shorten them",
                param="messages",
            )
        return reading.ids

    def _spans(self, token_ids: Sequence[int], images: Sequence[ImagePart]) -> list[PlacedImage]:
        found = [offset for offset, token in enumerate(token_ids) if token == self._image_token_id] if images else []
        spans: list[PlacedImage] = []
        for image in images:
            length = self._writer.num_image_tokens(image)
            offsets, found = found[:length], found[length:]
            if len(offsets) < length or offsets[-1] - offsets[0] != length - 1:
                raise ConfigurationError(f"the model's tokenizer does not keep {self._writer.image_token!r} in one piece")
            spans.append(PlacedImage(offsets[0], length, image, self._writer.num_image_patches(image)))
        return spans


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

    def render(self, messages: Sequence[Message]) -> str:
        conversation = [{"role": message.role, "content": self._content(message)} for message in messages]
        return str(self._tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

    def _content(self, message: Message) -> str:
        images = [part for part in message.parts if isinstance(part, ImagePart)]
        if images and self._placeholder is None:
            raise InvalidRequest("this model sees no images", param=images[0].param)
        parts = sorted(message.parts, key=lambda part: isinstance(part, TextPart)) if len(images) == 1 else message.parts
        content = ""
        after_text = False
        for part in parts:
            if isinstance(part, TextPart):
                content += ("\n" if after_text else "") + part.text
            elif self._placeholder is not None:
                content += self._placeholder.token
            after_text = isinstance(part, TextPart)
        return content

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

    def render(self, messages: Sequence[Message]) -> str:
        conversation = [{"role": message.role, "content": [_as_part(part) for part in message.parts]} for message in messages]
        return str(self._processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True))

    def adds_special_tokens(self, text: str) -> bool:
        begin = self._processor.tokenizer.bos_token
        return begin is None or not text.startswith(begin)


def _is_written(token: str, template: str) -> bool:
    """Whether a template writes it; white space is not the template's alone, though tokenizers have tokens for runs of it."""
    return not token.isspace() and token in template


def _as_part(part: TextPart | ImagePart) -> dict[str, str]:
    return {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}


def _load_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    gguf = gguf_file(checkpoint.folder)
    try:
        more = {"gguf_file": gguf} if gguf else {}
        return AutoConfig.from_pretrained(str(checkpoint.folder), trust_remote_code=False, **more)
    except Exception as error:  # a broken checkpoint fails in a dozen ways, and all of them are the configuration's
        raise ConfigurationError(f"{checkpoint.source} has no configuration that transformers can load: {error}") from error


def _load_processor(checkpoint: Checkpoint) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(str(checkpoint.folder), trust_remote_code=False)
    except Exception as error:  # as above
        raise ConfigurationError(f"{checkpoint.source} has no processor that transformers can load: {error}") from error
    _check_template(checkpoint, processor.chat_template or processor.tokenizer.chat_template)
    return processor


def _check_template(checkpoint: Checkpoint, template: object) -> None:
    if not template:
        raise ConfigurationError(
            f"{checkpoint.source} has no chat template, so it cannot serve chats; use an instruction-tuned model"
        )
