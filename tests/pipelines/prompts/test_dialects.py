"""How a model calls and thinks, found out from what its template writes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pipelines.jobs import ImagePart, TextPart
from pipelines.prompts.dialects import dialect_of, takes_system
from pipelines.prompts.writers import Entry
from pipelines.tools.asked import ToolChoice
from tests.pipelines.tools.templates import BY_FORMAT, PLAIN, STRICT, THINKING, UNKNOWN


@dataclass
class Writer:
    """A template without a tokenizer."""

    template: str
    image_token: str | None = None

    def num_image_tokens(self, image: ImagePart) -> int:
        return 1

    def num_image_patches(self, image: ImagePart) -> int:
        return 1

    def content(self, parts: Sequence[TextPart | ImagePart]) -> str:
        return "\n".join(part.text for part in parts if isinstance(part, TextPart))

    def render(self, conversation: Sequence[Entry], tools: Sequence[Entry] = (), **variables: Any) -> str:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        environment.globals["raise_exception"] = refuse
        return environment.from_string(self.template).render(messages=conversation, tools=tools or None, **variables)

    def adds_special_tokens(self, text: str) -> bool:
        return False


def refuse(message: str) -> None:
    raise TemplateError(message)


@dataclass
class Added:
    content: str
    special: bool


@dataclass
class Tokenizer:
    """What is asked of one."""

    added_tokens_decoder: dict[int, Added] = field(default_factory=dict)
    response_template: dict[str, Any] | None = None


@pytest.mark.parametrize("form", BY_FORMAT)
def test_a_family_is_known_by_how_its_template_writes_a_call(form: str) -> None:
    dialect = dialect_of(Writer(BY_FORMAT[form]), Tokenizer())
    assert dialect.knows_tools
    assert dialect.format is not None
    assert dialect.format.name == form
    assert dialect.choices == (ToolChoice.AUTO, ToolChoice.REQUIRED)


def test_a_template_without_tools_knows_none_and_one_with_strange_calls_is_of_no_family() -> None:
    assert not dialect_of(Writer(PLAIN), Tokenizer()).knows_tools
    assert dialect_of(Writer(PLAIN), Tokenizer()).format is None
    strange = dialect_of(Writer(UNKNOWN), Tokenizer())
    assert (strange.knows_tools, strange.format) == (True, None)
    assert strange.choices == (ToolChoice.REQUIRED,)


def test_the_configuration_names_a_format_or_lets_the_model_call_nothing() -> None:
    named = dialect_of(Writer(PLAIN), Tokenizer(), tools="mistral")
    assert named.format is not None
    assert (named.format.name, named.knows_tools) == ("mistral", False)
    refused = dialect_of(Writer(BY_FORMAT["hermes"]), Tokenizer(), tools="none")
    assert (refused.is_refused, refused.choices) == (True, ())


def test_thoughts_are_told_apart_where_the_template_knows_their_end() -> None:
    thinking = dialect_of(Writer(THINKING), Tokenizer())
    assert thinking.thoughts is not None
    assert thinking.thoughts.opening == "<think>"
    assert dialect_of(Writer(PLAIN), Tokenizer()).thoughts is None
    assert dialect_of(Writer(THINKING), Tokenizer(), thoughts="none").thoughts is None


def test_marks_that_are_tokens_are_found_by_their_numbers() -> None:
    added = {5: Added("[TOOL_CALLS]", True), 6: Added("<tool_call>", False), 7: Added("<|im_end|>", True)}
    mistral, hermes = (dialect_of(Writer(BY_FORMAT[form]), Tokenizer(added)) for form in ("mistral", "hermes"))
    assert (mistral.tokens, mistral.special) == ({"[TOOL_CALLS]": 5}, {"[TOOL_CALLS]": 5})
    assert (hermes.tokens, hermes.special) == ({"<tool_call>": 6}, {})


def test_a_tokenizers_own_word_is_kept_with_the_tokens_that_it_names() -> None:
    template = {"start_anchor": "<|im_start|>", "fields": {"content": {"close_pattern": r"\s*<\|im_end\|>"}}}
    added = {5: Added("<|im_end|>", True), 6: Added("<|other|>", True)}
    dialect = dialect_of(Writer(BY_FORMAT["hermes"]), Tokenizer(added, template))
    assert (dialect.response_template, dialect.special) == (template, {"<|im_end|>": 5})
    assert dialect_of(Writer(BY_FORMAT["hermes"]), Tokenizer(added, template), tools="hermes").response_template is None


def test_whether_a_template_takes_a_system_message_is_tried() -> None:
    assert takes_system(Writer(PLAIN))
    assert not takes_system(Writer(STRICT))
