"""Known faults of what is locked, and of what is installed its licences and its bill of materials (CycloneDX).

Runs pip-audit, pip-licenses and cyclonedx-py, of the environment that runs this file. Ends with 1 where a locked version has a
known fault, with 2 where no database of faults can be reached, so that nothing was looked up, and with 0 where none is known.
`--may-be-unreachable`, for machines that reach no database, says so as loudly and ends with 0. Decides nothing about licences.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(sys.executable).parent
SOUND, FAULTY, UNREACHABLE = 0, 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, required=True, help="the interpreter whose packages are listed")
    parser.add_argument("--lock", type=Path, required=True, help="the lock whose versions are looked up")
    parser.add_argument("--into", type=Path, required=True, help="the folder for sbom.json and licenses.json")
    parser.add_argument("--may-be-unreachable", action="store_true", help="a database of faults; end with 0 without it")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    _list_contents(given.environment, given.into / "sbom.json")
    _list_licenses(given.environment, given.into / "licenses.json")
    status = _look_up(given.lock)
    return 0 if status == UNREACHABLE and given.may_be_unreachable else status


def _list_contents(environment: Path, path: Path) -> None:
    _run("cyclonedx-py", "environment", str(environment), "--output-reproducible", "-o", str(path))
    print(f"{path}: {len(json.loads(path.read_text())['components'])} packages")


def _list_licenses(environment: Path, path: Path) -> None:
    _run("pip-licenses", f"--python={environment}", "--format=json", "--with-urls", f"--output-file={path}")
    counted = Counter(entry["License"] for entry in json.loads(path.read_text()))
    print(f"{path}: " + ", ".join(f"{license} {count}" for license, count in counted.most_common(8)) + ", ...")


def _look_up(lock: Path) -> int:
    told = _run("pip-audit", "-r", str(lock), "--require-hashes", "--disable-pip", "-f", "json", "--progress-spinner", "off")
    if told.stdout.startswith("{"):
        lines, status = verdict(json.loads(told.stdout)["dependencies"])
    else:
        lines, status = [f"NOT AUDITED: {_last_line(told.stderr)}"], UNREACHABLE
    print("\n".join(f"{lock}: {line}" for line in lines))
    return status


def verdict(packages: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], int]:
    """(what to say, exit status), of what pip-audit found. An index without a database of faults answers that it knows no package:
    that is no good news."""
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        return ["NOT AUDITED: no database of known faults can be reached from here"], UNREACHABLE
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no version'}"
        for package in known
        for fault in package["vulns"]
    ]
    skipped = [str(package["name"]) for package in packages if "skip_reason" in package]
    left_out = f"; not looked up: {', '.join(skipped)}" if skipped else ""
    told = f"{len(known)} of {len(packages)} packages looked up, {len(faults)} known faults{left_out}"
    return [*faults, told], FAULTY if faults else SOUND


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A tool that fails says so on its standard error; only pip-audit's failure is expected."""
    done = subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0 and tool != "pip-audit":
        raise SystemExit(f"{tool} failed: {_last_line(done.stderr)}")
    return done


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


if __name__ == "__main__":
    sys.exit(main())
