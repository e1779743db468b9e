"""Every setting that a message names is there to be set."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from pipelines.settings.schema.config import (
    AppConfig,
    BatchConfig,
    LlmConfig,
    QueueConfig,
)
from pipelines.settings.schema.deployments import AutoscalingConfig, DeploymentConfig

ROOT = Path(__file__).parents[3]
ROOMS = ("pipelines", "stages", "cache")
HOMES = ("limits", "auth", "fetch", "cache", "ingress", "models", "deployments", "routing", "scaling")
STEP = r"(?:[a-z_]+|\*)"
WHOLE = re.compile(rf"(?<![\w./'-])(?:{'|'.join(HOMES)})(?:\.{STEP})+")
PART = re.compile(r"(?<![\w./'*-])(batch|queue|llm|autoscaling_config|ray_actor_options)\.([a-z_]+)")
PARTS: dict[str, type[BaseModel]] = {
    "batch": BatchConfig,
    "queue": QueueConfig,
    "llm": LlmConfig,
    "autoscaling_config": AutoscalingConfig,
    "ray_actor_options": type(DeploymentConfig(stages=("a.b",)).ray_actor_options),
}


def texts(source: str) -> Iterator[str]:
    """Every string of a module but its docstrings; what is put into an f-string is a star."""
    tree = ast.parse(source)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(value.value) if isinstance(value, ast.Constant) else "*" for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (documentation | inside):
            yield node.value


def named() -> Iterator[tuple[str, str]]:
    """(where, setting)"""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for text in texts(path.read_text()):
                if "import_path" in text or "pipelines." in text:
                    continue
                for found in WHOLE.finditer(text):
                    yield str(path.relative_to(ROOT)), found[0]
                for found in PART.finditer(WHOLE.sub("", text)):
                    yield str(path.relative_to(ROOT)), found[0]


def exists(setting: str) -> bool:
    first, *rest = setting.split(".")
    if first in PARTS:
        return _reaches([PARTS[first]], rest)
    return _reaches([AppConfig], [first, *rest])


def _reaches(kinds: list[Any], steps: list[str]) -> bool:
    """Whether one of the kinds has a field for the first step, and so on; a star is any key, or the name of any field."""
    if not steps:
        return True
    found: list[Any] = []
    for kind in kinds:
        if get_origin(kind) is dict:
            found.append(get_args(kind)[1])
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = kind.model_fields
            found += [
                fields[name].annotation for name in ([steps[0]] if steps[0] in fields else fields if steps[0] == "*" else [])
            ]
    return bool(found) and _reaches([member for one in found for member in _members(one)], steps[1:])


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for one in get_args(annotation) for member in _members(one)]
    return [annotation]


@pytest.mark.parametrize(("where", "setting"), sorted(set(named())))
def test_a_setting_that_a_message_names_exists(where: str, setting: str) -> None:
    assert exists(setting), f"{where} names {setting}, which the configuration does not have"


@pytest.mark.parametrize(
    ("setting", "there"),
    [
        ("limits.max_tokens", True),
        ("limits.max_words", False),
        ("models.*.llm.num_slots", True),
        ("models.*.llm.slots", False),
        ("models.*.*.batch.max_items", True),
        ("deployments.*.max_queued_requests", True),
        ("deployments.*.ray_actor_options.num_gpus", True),
        ("deployments.*.num_gpus", False),
        ("queue.max_cost", True),
        ("batch.max_tokens", False),
        ("auth.keys", True),
        ("auth.secret", False),
    ],
)
def test_this_test_knows_what_exists(setting: str, there: bool) -> None:
    assert exists(setting) == there


def test_messages_do_name_settings() -> None:
    settings = {setting for _, setting in named()}
    assert {"limits.max_tokens", "limits.max_request_s", "models.*.llm.max_context_tokens", "auth.keys"} <= settings
    assert "deployments.*.max_queued_requests" in settings
