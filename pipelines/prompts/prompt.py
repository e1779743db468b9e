"""From a conversation to the model's own prompt: token ids, and where each image's features go.

Applies the checkpoint's chat template, puts as many placeholder tokens as the image will have features, and reads control
tokens in a user's text as text. Loads tokenizer, processor and configuration files; knows no weights, no stages and no
HTTP. Everything here is CPU work (milliseconds): call `build` off the event loop, from any thread.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from pipelines.jobs import ImagePart, Message, TemplateOptions, TokenizerNote
from pipelines.prompts.control_tokens import ControlTokens, unused_mark
from pipelines.prompts.conversation import (
    called_functions,
    changed,
    entry_of,
    harmless_parts,
    short_id,
    texts_of,
    texts_of_message,
    with_own_thoughts,
)
from pipelines.prompts.dialects import AUTO, dialect_of, takes_system
from pipelines.prompts.generic import in_words
from pipelines.prompts.plain import PlainTexts
from pipelines.prompts.render_bounds import rendering_bounded, watch_templates
from pipelines.prompts.writers import Entry, Placeholder, ProcessorPromptWriter, PromptWriter, TextPromptWriter
from pipelines.tools.asked import Tools
from pipelines.tools.dialect import Dialect
from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError, InvalidRequest, TriptychError
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.tokenizer import gguf_file, load_tokenizer
from stages.text.text_tokenizer import TextTokenizer

PLAIN = TemplateOptions()
MAX_BEGUN_CHARS = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """`images`: of the placeholder tokens, in order. `begun`: how its text ends, which may be the beginning of a thought."""

    token_ids: tuple[int, ...]
    images: tuple["PlacedImage", ...] = ()
    begun: str = ""


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """`length` placeholder tokens from `offset`, for an image that its tower sees as `num_patches`."""

    offset: int
    length: int
    image: ImagePart
    num_patches: int


class PromptBuilder:
    """For one model; thread-safe. `max_tokens`: a prompt of far more is refused before it is read to its end."""

    def __init__(
        self,
        tokenizer: Any,
        writer: PromptWriter,
        checkpoint: Checkpoint,
        max_tokens: int | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self._writer, self._checkpoint, self._max_tokens = writer, checkpoint, max_tokens
        self._dialect = dialect_of(writer, tokenizer) if dialect is None else dialect
        self._takes_system = takes_system(writer)
        self._backend = tokenizer.backend_tokenizer
        self._note = TokenizerNote(
            tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token, writer.template
        )
        self._texts = TextTokenizer.of(tokenizer, param="messages", max_tokens=max_tokens)
        self._image_token_id = self._backend.token_to_id(writer.image_token) if writer.image_token else None
        added = tokenizer.added_tokens_decoder.values()
        written = {token.content for token in added if token.special or _is_written(token.content, writer.template)}
        self._control = ControlTokens(written | ({writer.image_token} if writer.image_token else set()))

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        projector: Checkpoint | None = None,
        max_tokens: int | None = None,
        *,
        tools: str = AUTO,
        thoughts: str = AUTO,
    ) -> "PromptBuilder":
        """`projector`: of a model made of an open_clip tower, a projector and a text-only language model. `tools`, `thoughts`: the
        configuration's word on how it calls and thinks. Raises `ConfigurationError` for a checkpoint without tokenizer or chat template."""
        from stages.vision.vlm.files import VLM_PARTS

        ensure_torchvision()
        watch_templates()
        writer: PromptWriter
        if gguf_file(checkpoint.folder) is None and (config := _load_config(checkpoint)).model_type in VLM_PARTS:
            processor = _load_processor(checkpoint)
            tokenizer, writer = processor.tokenizer, ProcessorPromptWriter(processor, int(config.vision_config.patch_size))
        else:
            tokenizer = load_tokenizer(checkpoint.folder)
            _check_template(checkpoint, tokenizer.chat_template)
            writer = TextPromptWriter(tokenizer, Placeholder.load(projector) if projector is not None else None)
        return cls(tokenizer, writer, checkpoint, max_tokens, dialect_of(writer, tokenizer, tools=tools, thoughts=thoughts))

    @property
    def dialect(self) -> Dialect:
        """How the model calls tools and thinks."""
        return self._dialect

    def plain(self) -> PlainTexts:
        """What the same tokenizer makes of texts without a template."""
        return PlainTexts(self._texts, self._backend, self._max_tokens, self._note)

    @property
    def max_context_tokens(self) -> int | None:
        """The longest context that the model was made for; None where it does not say. Reads files."""
        limit = getattr(_load_config(self._checkpoint).get_text_config(), "max_position_embeddings", None)
        return int(limit) if limit is not None else None

    def num_chars(self, messages: Sequence[Message], tools: Tools | None = None) -> int:
        """Of all texts together, and of what stands for the images. Raises `InvalidRequest` for images that the model can't see."""
        token = self._writer.image_token or ""
        images = (part for message in messages for part in message.parts if isinstance(part, ImagePart))
        num_image_chars = sum(len(token) * self._writer.num_image_tokens(image) for image in images)
        texts = (text for message in messages for text in texts_of_message(message))
        return num_image_chars + sum(map(len, texts)) + sum(map(len, texts_of(_shown(tools))))

    def build(self, messages: Sequence[Message], tools: Tools | None = None, options: TemplateOptions = PLAIN) -> Prompt:
        """Raises `InvalidRequest` for a conversation that the model's template refuses (such as two user messages in a row), that
        its tokenizer can't read, that is far too long, or that takes the template too long; `Cancelled` once nobody waits for it."""
        own = [with_own_thoughts(message, self._dialect.thoughts) for message in messages]
        if not self._dialect.knows_tools:
            own, tools = list(in_words(own, tools, takes_system=self._takes_system)), None
        images = [part for message in own for part in message.parts if isinstance(part, ImagePart)]
        shown, variables = _shown(tools), self._variables(options)
        mark = unused_mark((*(text for message in own for text in texts_of_message(message)), *texts_of([shown, variables])))
        text = self._rendered(self._entries(own, mark), self._broken(shown, mark), options, self._broken(variables, mark))
        token_ids = self._tokenized(self._with_placeholders(text, images), mark)
        return Prompt(tuple(token_ids), tuple(self._spans(token_ids, images)), self._begun(text))

    def _entries(self, messages: Sequence[Message], mark: str) -> list[Entry]:
        """As the template takes them, with broken control tokens."""
        form, functions = self._dialect.format, called_functions(messages)
        call_id = str if form is None or form.num_id_chars is None else short_id(form.num_id_chars)
        entries: list[Entry] = []
        for message in messages:
            content = self._writer.content(harmless_parts(message.parts, self._control, mark))
            entry = entry_of(message, functions, call_id)
            entries.append({"role": message.role, "content": content, **self._broken(entry, mark)})
        return entries

    def _broken(self, value: Any, mark: str) -> Any:
        return changed(value, lambda text: self._control.broken(text, mark))

    def _variables(self, options: TemplateOptions) -> dict[str, Any]:
        """Those that the template looks at."""
        return {name: value for name, value in options.variables.items() if self.uses(name)}

    def uses(self, variable: str) -> bool:
        """Whether the template looks at a variable of that name."""
        return re.search(rf"\b{re.escape(variable)}\b", self._writer.template) is not None

    def _rendered(
        self, entries: Sequence[Entry], tools: Sequence[Entry], options: TemplateOptions, variables: Mapping[str, Any]
    ) -> str:
        try:
            with rendering_bounded():
                return self._writer.render(
                    entries,
                    tools,
                    add_generation_prompt=options.begins_answer and not options.continues,
                    continue_final_message=options.continues,
                    **variables,
                )
        except TriptychError:
            raise
        except Exception as error:  # a template is a program: what it fails on is in these messages
            told = f"refuses these messages: {error}" if type(error) is TemplateError else "cannot take these messages"
            raise InvalidRequest(f"the model's chat template {told}", param="messages") from error

    def _begun(self, text: str) -> str:
        """What of the answer the prompt has written already, as far as its reader must know."""
        return text if self._dialect.response_template is not None else text[-MAX_BEGUN_CHARS:]

    def encode(self, text: str) -> Sequence[int]:
        """A plain text's tokens: no template, no begin token, and control tokens read as text."""
        mark = unused_mark([text])
        return self._encoded(self._control.broken(text, mark), mark)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the whole prompt."""
        return len(self.build(messages).token_ids)

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


def _shown(tools: Tools | None) -> list[Entry]:
    return [] if tools is None else [function.as_json() for function in tools.functions]


def _is_written(token: str, template: str) -> bool:
    """Whether a template writes it; white space is not the template's alone, though tokenizers have tokens for runs of it."""
    return not token.isspace() and token in template


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
