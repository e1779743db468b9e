"""What CI makes of what pip-audit found."""

import runpy
from pathlib import Path
from typing import Any

import pytest

VERDICT = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "audit.py"))["verdict"]
UNKNOWN = {"name": "zipp", "skip_reason": "Dependency not found on PyPI and could not be audited: zipp (4.1.2)"}
SOUND = {"name": "yarl", "version": "1.25.1", "vulns": []}
FAULTY = {
    "name": "pillow",
    "version": "12.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["12.3"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


@pytest.mark.parametrize(
    ("packages", "told", "status"),
    [
        ([UNKNOWN, UNKNOWN], ["not audited: no database of known faults can be reached from here"], 0),
        ([UNKNOWN, SOUND], ["1 of 2 packages looked up, 0 known faults"], 0),
        (
            [SOUND, FAULTY],
            [
                "pillow 12.0: PYSEC-1, fixed in 12.3",
                "pillow 12.0: PYSEC-2, fixed in no version",
                "2 of 2 packages looked up, 2 known faults",
            ],
            1,
        ),
    ],
)
def test_a_known_fault_fails_and_an_index_that_knows_nothing_is_no_good_news(
    packages: Any, told: list[str], status: int
) -> None:
    assert VERDICT(packages) == (told, status)
