"""What a tenant's values are named and sealed with is shown in no log and no error that shows an object."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECRETS = {"salt", "seal", "secret"}


def fields(module: ast.Module) -> Iterator[ast.AnnAssign]:
    """That hold a secret, of dataclasses."""
    for owner in ast.walk(module):
        if isinstance(owner, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in owner.decorator_list):
            for node in owner.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in SECRETS:
                    yield node


def is_hidden(field: ast.AnnAssign) -> bool:
    return isinstance(field.value, ast.Call) and "repr=False" in [ast.unparse(each) for each in field.value.keywords]


def test_no_secret_is_in_a_repr() -> None:
    found = {
        f"{path.relative_to(ROOT)}:{field.lineno}": is_hidden(field)
        for folder in ("cache", "stages", "pipelines")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for field in fields(ast.parse(path.read_text()))
    }
    assert len(found) >= 10
    assert [where for where, hidden in found.items() if not hidden] == []


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        ("salt: str", False),
        ("seal: str = ''", False),
        ("salt: str = field(default='')", False),
        ("salt: str = field(repr=False)", True),
    ],
)
def test_the_search_finds_what_it_is_for(line: str, hidden: bool) -> None:
    assert [is_hidden(each) for each in fields(ast.parse(f"@dataclass(frozen=True)\nclass A:\n    {line}\n"))] == [hidden]
