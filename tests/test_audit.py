"""What CI makes of what pip-audit found."""

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

AUDIT = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "audit.py"))
VERDICT, MAIN = AUDIT["verdict"], AUDIT["main"]
UNKNOWN = {"name": "zipp", "skip_reason": "Dependency not found on PyPI and could not be audited: zipp (4.1.2)"}
SOUND = {"name": "yarl", "version": "1.25.1", "vulns": []}
FAULTY = {
    "name": "pillow",
    "version": "12.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["12.3"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
FAULTY_ANSWER = json.dumps({"dependencies": [FAULTY]})


@pytest.mark.parametrize(
    ("packages", "told", "status"),
    [
        ([UNKNOWN, UNKNOWN], ["NOT AUDITED: no database of known faults can be reached from here"], 2),
        ([UNKNOWN, SOUND], ["1 of 2 packages looked up, 0 known faults; not looked up: zipp"], 0),
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


@pytest.mark.parametrize(
    ("answer", "options", "status"),
    [
        ("", [], 2),
        ('{"dependencies": [{"name": "zipp", "skip_reason": "not found"}]}', [], 2),
        ("", ["--may-be-unreachable"], 0),
        ('{"dependencies": [{"name": "yarl", "version": "1", "vulns": []}]}', [], 0),
        (FAULTY_ANSWER, ["--may-be-unreachable"], 1),
    ],
)
def test_an_audit_that_looked_nothing_up_does_not_pass_unless_it_is_told_that_it_may(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    options: list[str],
    status: int,
) -> None:
    def run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        for name, content in (("sbom.json", '{"components": []}'), ("licenses.json", "[]")):
            (tmp_path / name).write_text(content)
        return subprocess.CompletedProcess(arguments, 0, answer if tool == "pip-audit" else "", "no route to host")

    monkeypatch.setitem(MAIN.__globals__, "_run", run)
    given = ["--environment", "python", "--lock", "locks/cuda.txt", "--into", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["audit.py", *given, *options])
    assert MAIN() == status
    assert ("NOT AUDITED" in capsys.readouterr().out) == ("vulns" not in answer)
