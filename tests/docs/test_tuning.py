"""docs/tuning.md tells of every setting that there is, and of none that isn't."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from pipelines.settings.schema.config import PARTS, AppConfig

PAGE = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
TABLE = re.compile(r"^\| (?:`([^`|]*)\.`|setting) \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
NAME = re.compile(r"`([^`]+)`")
ONLY_SOME = {"projector", "num_slots", "max_context_tokens", "prefill_chunk_tokens", "page_tokens", "page_dtype"}
"""Settings of one kind of part; the others are every part's."""


def settings(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Of a model and of those within it; a name of the user's is a star, an entry of a list []."""
    for name, field in model.model_fields.items():
        within = list(models_in(field.annotation))
        if not within:
            yield path + name
        for each in within:
            yield from settings(each, f"{path}{name}{step(str(field.annotation))}.")


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def step(annotation: str) -> str:
    return ".*" if annotation.startswith("dict") else "[]" if annotation.startswith("tuple") else ""


def of_any_part(setting: str) -> str:
    models, star, part, *rest = [*setting.split("."), "", ""]
    if models != "models" or part not in PARTS or rest[0] in ONLY_SOME:
        return setting
    return ".".join([models, star, "PART", *filter(None, rest)])


def told() -> Iterator[str]:
    for group, rows in TABLE.findall(PAGE):
        for row in rows.splitlines():
            first = row.split("|")[1]
            yield from (f"{group}.{name}" if group else name for name in NAME.findall(first))


def test_every_setting_is_told_once_and_no_other() -> None:
    found = list(told())
    assert len(found) == len(set(found))
    assert set(found) == {of_any_part(setting) for setting in settings(AppConfig)}
