"""What counts as a hop."""

import asyncio
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.walk import OUTSIDE, Walk

FILES = {
    "ours/first.py": """
import walked_ours.second as second
def plain(): return [second.leaf() for _ in range(5)]
def around(): return own()
def own(): return second.leaf()
async def waits(): return await second.slow()
""",
    "ours/second.py": """
import asyncio
def leaf(): return 1
async def slow():
    for _ in range(3): await asyncio.sleep(0)
    return leaf()
""",
}


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, ModuleType]]:
    folder = tmp_path / "walked_ours"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / Path(name).name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path, importlib.import_module("walked_ours.first")
    for name in [name for name in sys.modules if name.startswith("walked_ours")]:
        del sys.modules[name]


@pytest.fixture
def walk(ours: tuple[Path, ModuleType]) -> Iterator[Walk]:
    found = Walk(ours[0], ["walked_ours"])
    yield found
    found.close()


def hops(walk: Walk) -> set[tuple[str, str]]:
    return {tuple(end.removeprefix("walked_ours/") for end in hop) for hop in walk.hops}  # type: ignore[misc]


def test_a_call_into_another_module_counts_once_and_one_within_a_module_never(
    ours: tuple[Path, ModuleType], walk: Walk
) -> None:
    with walk.counting():
        ours[1].plain()
        ours[1].around()
    assert hops(walk) == {
        (OUTSIDE, "first.py:plain"),
        (OUTSIDE, "first.py:around"),
        ("first.py:plain.<locals>.<listcomp>", "second.py:leaf"),
        ("first.py:own", "second.py:leaf"),
    }
    assert walk.by_folder() == {"walked_ours": 4}


def test_what_waits_is_one_hop_however_often_it_goes_on(ours: tuple[Path, ModuleType], walk: Walk) -> None:
    with walk.counting():
        asyncio.run(ours[1].waits())
    assert hops(walk) == {(OUTSIDE, "first.py:waits"), ("first.py:waits", "second.py:slow")}


def test_what_a_thread_is_handed_counts_and_what_is_not_asked_about_does_not(
    ours: tuple[Path, ModuleType], walk: Walk
) -> None:
    ours[1].plain()
    assert walk.hops == set()
    with walk.counting():
        thread = threading.Thread(target=ours[1].around, name="worker")
        thread.start()
        thread.join()
    assert hops(walk) == {(OUTSIDE, "first.py:around"), ("first.py:own", "second.py:leaf")}
    assert walk.threads == {"worker"}
    assert walk.num_from_outside == 1
