"""Stages speak of their own payloads: no word of HTTP in what they say, and no field at fault that no message of theirs has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import stages

ROOT = Path(stages.__file__).parent
HTTP = re.compile(r"https?://|x-request|x-triptych|\bheaders?\b|status code|openai|multipart", re.IGNORECASE)
ABOUT_FILES = {"checkpoints", "image_header", "formats"}  # hubs are reached over HTTP, and files have headers

TOGETHER = {"size", "negative_prompt"}  # width and height; what `negative` was made of


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def said(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every string but docstrings."""
    silent = {
        id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.lineno, node.value


def fields_of_messages() -> set[str]:
    return {
        node.target.id
        for path, module in modules()
        if path.name == "messages.py"
        for owner in ast.walk(module)
        if isinstance(owner, ast.ClassDef)
        for node in owner.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def test_no_stage_says_a_word_of_http() -> None:
    found = [
        f"{path}:{line}: {text}"
        for path, module in modules()
        if not ABOUT_FILES & {*path.parts[:-1], path.stem}
        for line, text in said(module)
        if HTTP.search(text)
    ]
    assert found == []


def test_every_field_at_fault_is_a_field_of_a_message() -> None:
    known = fields_of_messages() | TOGETHER
    assert {"token_ids", "steps", "max_tokens"} <= known
    found = [
        f"{path}:{node.lineno}: {keyword.value.value}"
        for path, module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "param" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
        if keyword.value.value not in known
    ]
    assert found == []
