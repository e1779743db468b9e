"""Copies of this code as an earlier or a later version might be, for processes that are to run one of those: what differs is replaced in
the copy's text, and a process finds the copy before anything else where `environment` is its own."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks.reporting.report import ROOT

PACKAGES = ("benchmarks", "cache", "demo", "pipelines", "stages", "tests")
FINDER = """
import sys
from importlib.machinery import PathFinder


class First:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{folder!r}]) if name in {packages!r} else None


sys.meta_path.insert(0, First)
"""

PACKED, REPLICA = "stages/host/packed_item.py", "pipelines/cluster/replica.py"
TOLD = "replace(end, news=self._host.news())"
Changes = Mapping[str, Mapping[str, str]]

EARLIER: Changes = {
    PACKED: {
        ', droppable=["in_pieces"]': "",
        "    in_pieces: bool = False\n": "",
        "(PackedItem(data, item.deadline, in_pieces=True) if": "(PackedItem(data, item.deadline) if",
        "    return PackedItem(data, item.deadline, in_pieces=True) if len(data) <= max_bytes else None": "    return None",
    },
    REPLICA: {
        "in_pieces = isinstance(item, PackedItem) and item.in_pieces": "in_pieces = False",
        "    async def answer(": "    async def not_there_yet(",
    },
}
"""Knows nothing of answers in pieces."""
LATER: Changes = {
    "stages/contract/item.py": {'    dtype: str = "float32"\n': '    dtype: str = "float32"\n    mood: str = ""\n'},
    REPLICA: {TOLD: 'replace(end, news=self._host.news(), receipt=replace(end.receipt, mood="fine"))'},
}
"""Tells more in a receipt, which may be left out."""
STRANGE: Changes = {
    "stages/contract/item.py": {
        "    receipt: StageReceipt\n    news: tuple[StageNews, ...] = ()\n": (
            "    receipt: StageReceipt\n    news: tuple[StageNews, ...] = ()\n    reasons: tuple[str, ...] = ()\n"
        )
    },
    REPLICA: {TOLD: 'replace(end, news=self._host.news(), reasons=("it is late",))'},
}
"""Ends its streams with a word that may not be left out."""


def copied(folder: Path, changes: Changes) -> Path:
    """The copy. Raises `LookupError` where what a change replaces is not there once."""
    for package in PACKAGES:
        if package == "demo":  # with its weights, which nobody changes
            (folder / package).symlink_to(ROOT / package)
        else:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name, replaced in changes.items():
        text = (folder / name).read_text()
        for old, new in replaced.items():
            if text.count(old) != 1:
                raise LookupError(f"{name}: {old!r} is there {text.count(old)} times")
            text = text.replace(old, new)
        (folder / name).write_text(text)
    (folder / "sitecustomize.py").write_text(FINDER.format(folder=str(folder), packages=PACKAGES))
    return folder


def environment(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(folder)}
