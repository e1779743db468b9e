"""The table of families."""

from pathlib import Path

import pytest

from pipelines.settings.config_file import parse
from pipelines.tools.formats import BY_NAME, FORMATS, format_of
from stages.contract.errors import ConfigurationError

DOCS = Path(__file__).parents[3] / "docs" / "tools.md"


def test_every_family_is_told_of_where_people_look() -> None:
    told = DOCS.read_text()
    assert all(f"`{one.name}`" in told for one in FORMATS)


def test_what_is_written_in_no_known_way_is_of_no_family() -> None:
    assert format_of("") is None
    assert format_of('<tool_call>{"name": "somebody_else"}</tool_call>') is None


@pytest.mark.parametrize("tools", ["auto", "none", *BY_NAME])
def test_the_configuration_may_name_any(tools: str) -> None:
    model = {"pipeline": "image_text", "llm": {"loader": "transformers", "source": {"demo": "smollm2"}}, "tools": tools}
    assert parse({"models": {"m": model}})


def test_another_name_is_refused_with_those_that_there_are() -> None:
    model = {"pipeline": "image_text", "llm": {"loader": "transformers", "source": {"demo": "smollm2"}}, "tools": "gpt"}
    with pytest.raises(ConfigurationError, match=r"tools.*hermes"):
        parse({"models": {"m": model}})
