"""A table in a page of docs/, between two comments that say where it is from. Decides how such a table is found and written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.reporting.report import Value


def table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Value]]) -> str:
    """`columns`: heading by a row's field. What a row hasn't is left empty."""
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Value) -> str:
    shown = "" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
    return shown.replace("|", "\\|").replace("<", "&lt;")


def written(page: str, name: str, text: str) -> str:
    """The page with `text` where it says that benchmark `name` writes. Raises `ValueError` where it doesn't say so once."""
    begin, end = f"<!-- written by python -m benchmarks.{name} -->", f"<!-- end of benchmarks.{name} -->"
    place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if len(place.findall(page)) != 1:
        raise ValueError(f"the page must hold {begin!r} and {end!r} once")
    return place.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def write_into(path: Path, name: str, text: str) -> None:
    path.write_text(written(path.read_text(), name, text))
