"""What `make setup` installs: everything that pyproject.toml asks for, each of it at one version, each of its files by its hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["cpu", "cuda"]
ENTRY = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<rest>.*(?:\n    .*)*)", re.MULTILINE)


def locked(lock: str) -> dict[str, Version]:
    return {canonicalize_name(found["name"]): Version(found["version"]) for found in entries(lock)}


def entries(lock: str) -> list[re.Match[str]]:
    return list(ENTRY.finditer((ROOT / "locks" / f"{lock}.txt").read_text()))


def asked_for() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    lines = [
        *PROJECT["project"]["dependencies"],
        *(line for extra in extras for line in extra),
        *PROJECT["build-system"]["requires"],
    ]
    return [Requirement(line) for line in lines]


def will_do(wanted: Requirement, versions: dict[str, Version]) -> bool:
    version = versions.get(canonicalize_name(wanted.name))
    return version is not None and version in wanted.specifier


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_that_is_asked_for_is_locked_at_a_version_that_will_do(lock: str) -> None:
    versions = locked(lock)
    missing = [str(wanted) for wanted in asked_for() if not will_do(wanted, versions)]
    assert missing == [], "run `make lock`"


@pytest.mark.parametrize("lock", [*LOCKS, "tools", "clients", "load"])
def test_every_entry_has_a_hash_and_no_address(lock: str) -> None:
    found = entries(lock)
    assert len(found) > 20
    assert [entry["name"] for entry in found if "--hash=sha256:" not in entry["rest"]] == []
    assert "://" not in (ROOT / "locks" / f"{lock}.txt").read_text()


def test_the_locks_differ_by_the_build_of_torch_alone() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")
    assert (cpu.pop("torch").local, cuda["torch"].local) == ("cpu", None)
    assert cpu.items() <= cuda.items()
    of_cuda = ("nvidia-", "cuda-")
    assert {name for name in cuda.keys() - cpu.keys() if not name.startswith(of_cuda)} == {"torch", "triton"}


def test_the_cpu_build_is_of_the_version_that_pyproject_names() -> None:
    (wanted,) = [wanted for wanted in asked_for() if wanted.name == "torch"]
    assert locked("cpu")["torch"].public in wanted.specifier
