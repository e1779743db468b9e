"""Whatever processes send one another is a message (`stages/contract/message.py`), down to what it holds: no type is forgotten."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from pipelines.cluster.replica import StageReplica
from pipelines.cluster.state.metrics_table import MetricsTable
from pipelines.routing.published import as_published, news_in
from stages.contract.blob import Blob
from stages.contract.message import KNOWN, Unread, message
from stages.contract.recipe import Making
from stages.contract.result import Result
from tests.stages.contract.kept_messages import messages

REPOSITORY = Path(__file__).parents[2]
CALLED = {
    StageReplica: {"call", "answer", "stream"},
    MetricsTable: {"report", "report_waiting", "told", "read", "report_counts", "counts", "report_settings", "settings"},
}
OF_RAY = {"update_deployment_replicas"}  # of Serve's controller, which gets a number
OF_A_LIBRARY = {
    ("report_counts", "counts"),
    ("counts", "return"),
}  # Prometheus' own counts: what can't be read is told again later
OPEN = {
    ("call", "to"),
    ("answer", "to"),
    ("stream", "to"),
    ("stream", "return"),
}  # a `Route`, which goes as nothing; any events, all of messages.py
PLAIN = (bool, int, float, str, bytes, type(None), np.ndarray, np.generic, Blob)
SEAMS = (Making, Result)  # what there is of these is found in the modules of messages
MODULES = [
    *sorted(REPOSITORY.glob("stages/**/messages.py")),
    *(REPOSITORY / f"stages/contract/{name}.py" for name in ("item", "news", "recipe", "trace", "work")),
]


def module_of(path: Path) -> Any:
    return import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))


def strays(hint: Any, *, is_open: bool = False) -> Iterator[Any]:
    """Of what a type names, whatever is neither plain nor a message. `is_open`: it may be anything."""
    kind = get_origin(hint) or hint
    if isinstance(hint, TypeVar):
        yield from strays(hint.__bound__, is_open=is_open)
    elif get_args(hint) and kind is not np.ndarray:
        for argument in get_args(hint):
            yield from strays(argument, is_open=is_open)
        if isinstance(kind, type) and (is_dataclass(kind) or (issubclass(kind, tuple) and kind is not tuple)):
            yield from strays(kind)
    elif hint in (Any, object):
        yield from () if is_open else (hint,)
    elif isinstance(kind, type) and kind not in SEAMS and not is_message(kind) and not is_plain(kind):
        yield hint


def is_plain(kind: type[Any]) -> bool:
    return issubclass(kind, PLAIN) and not issubclass(kind, Enum)


def is_message(kind: type[Any]) -> bool:
    where = f"{kind.__module__}:{kind.__qualname__}"
    known = KNOWN.messages.get(where)
    return KNOWN.enums.get(where) is kind or (known is not None and known.kind is kind)


def calls_of_other_processes(source: str) -> Iterator[str]:
    """The names of what is called with `.remote(...)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "remote":
            called = node.func.value
            named = isinstance(called, ast.Call) and isinstance(called.args[0], ast.Constant)
            yield str(called.args[0].value) if named else ast.unparse(called).rpartition(".")[2]  # type: ignore[attr-defined]


def test_every_call_of_another_process_is_looked_at_here() -> None:
    sources = [path.read_text() for path in REPOSITORY.glob("pipelines/**/*.py")]
    found = {name for source in sources for name in calls_of_other_processes(source)}
    assert found == set().union(*CALLED.values()) | OF_RAY


@pytest.mark.parametrize(("owner", "method"), [(owner, name) for owner, names in CALLED.items() for name in sorted(names)])
def test_what_is_given_and_answered_are_messages(owner: type[Any], method: str) -> None:
    hints = get_type_hints(getattr(owner, method))
    for name, hint in hints.items():
        if (method, name) not in OF_A_LIBRARY | OPEN:
            payloads = method in CALLED[StageReplica]  # which have no type of their own
            assert not list(strays(hint, is_open=payloads)), f"{method}: {name}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_all_that_a_module_of_messages_defines_is_a_message(path: Path) -> None:
    module = module_of(path)
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    values = [kind for kind in own if is_dataclass(kind) or issubclass(kind, Enum | tuple)]
    assert values
    assert [kind for kind in values if not is_message(kind)] == []


@pytest.mark.parametrize("where", messages())
def test_what_a_message_holds_is_plain_or_a_message(where: str) -> None:
    kind = KNOWN.messages[where].kind
    hints = get_type_hints(kind, vars(sys.modules[kind.__module__]))
    for field in fields(kind):
        assert not list(strays(hints[field.name], is_open=(where, field.name) == ("stages.contract.item:Item", "payload")))


def test_what_a_stage_is_sent_is_defined_in_a_module_of_messages() -> None:
    defined = {path: list(payloads(path.read_text())) for path in REPOSITORY.glob("stages/**/*.py")}
    assert {path for path, names in defined.items() if names} <= set(MODULES)
    assert sum(map(len, defined.values())) > 5


def payloads(source: str) -> Iterator[str]:
    """Dataclasses that say what they need, by themselves."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            methods = {each.name: each.args for each in node.body if isinstance(each, ast.FunctionDef)}
            if "needs" in methods and len(methods["needs"].args) == 1:
                yield node.name


class Pair(NamedTuple):
    number: int = 0


class Stray(Enum):
    HERE = 1


@dataclass(frozen=True, slots=True)
class Loose:
    number: int = 0


@pytest.mark.parametrize(
    "hint", [Pair, Stray, Loose, tuple[Loose, ...], Mapping[str, Pair], Loose | None, Any, list[tuple[str, Stray]], type]
)
def test_a_type_that_was_forgotten_is_noticed(hint: Any) -> None:
    assert list(strays(hint))


def test_news_that_can_not_be_read_are_none() -> None:
    stranger: Any = message(dataclass(frozen=True, slots=True)(type("Stranger", (), {"__module__": __name__})))
    published = as_published([stranger()])
    del KNOWN.messages[f"{__name__}:Stranger"]
    assert list(news_in(published)) == []


async def test_what_the_metrics_table_can_not_read_was_not_told() -> None:
    table, unread = MetricsTable(), Unread("of another version")
    await table.report("a", [unread], unread)  # type: ignore[list-item, arg-type]
    await table.report_waiting("a", {("pool", "stage"): unread})  # type: ignore[dict-item]
    await table.report_settings("a", unread)  # type: ignore[arg-type]
    assert (await table.read(), await table.told(), await table.settings()) == ([], ({}, [{}]), {})
