"""What comes from a store is data: nothing on the way from Redis to a result could execute it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH_OF_READING = (
    "cache/*.py",
    "stages/contract/result.py",
    "stages/host/resolving.py",
    "stages/host/remembered/cache_threads.py",
    "stages/host/pages/*.py",
    "stages/*/messages.py",
)
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "joblib",
    "yaml",
    "jsonpickle",
    "code",
    "torch",
}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "import_module",
    "load",
    "loads",
    "fromfile",
    "memmap",
    "frombuffer",
    "literal_eval",
}


def dangers(path: Path) -> Iterator[tuple[str, str, str]]:
    """(file, what is called or imported, of which module)"""
    where = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((where, name.name, "") for name in node.names if name.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield where, str(node.module), ""
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield where, called.id, ""
            elif isinstance(called, ast.Attribute) and called.attr in CALLS:
                yield where, called.attr, called.value.id if isinstance(called.value, ast.Name) else ""
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield where, "allow_pickle", ""


def test_nothing_on_the_path_of_reading_could_execute_what_is_read() -> None:
    of_pattern = {pattern: sorted(ROOT.glob(pattern)) for pattern in PATH_OF_READING}
    assert all(of_pattern.values())
    files = [path for paths in of_pattern.values() for path in paths]
    found = {danger for path in files for danger in dangers(path)}
    known = {("cache/codec.py", "loads", "json"), ("cache/codec.py", "frombuffer", "np"), ("cache/codec.py", "compile", "re")}
    assert found == known


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "eval(data)", "numpy.load(file)", "x.loads(data)", "f(allow_pickle=True)"],
)
def test_the_search_finds_what_it_is_for(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cache.test_nothing_is_executed.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(line)
    assert list(dangers(tmp_path / "module.py"))
