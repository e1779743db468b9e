"""Results of different versions of what prepares their input have different names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.checkpoints.input_versions import LIBRARIES, input_versions

SCRIPT = """
from stages.contract.engine import EngineIdentity
from stages.host.remembered.origin import Origin
print(Origin.of(EngineIdentity("adder", "cpu"), "weights").key)
"""


def name_in_a_process(*search_first: Path) -> str:
    path = os.pathsep.join([*map(str, search_first), os.getcwd()])
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True).stdout


def installed(folder: Path, library: str, version: str) -> Path:
    """A folder in which another version of a library is installed, as far as its metadata tell."""
    metadata = folder / f"{library}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: {version}\n")
    return folder


@pytest.mark.parametrize("library", ["pillow", "torch", "open_clip_torch"])
def test_a_process_with_another_version_remembers_under_another_name(library: str, tmp_path: Path) -> None:
    here = name_in_a_process()
    assert here == name_in_a_process()
    assert name_in_a_process(installed(tmp_path, library, "0.0.1")) != here


def test_a_build_is_no_version(tmp_path: Path) -> None:
    ours = input_versions()["torchvision"]
    assert name_in_a_process(installed(tmp_path, "torchvision", f"{ours}+cu999")) == name_in_a_process()


def test_every_version_is_told_and_what_is_not_installed_is_none() -> None:
    versions = input_versions()
    assert versions.keys() == {"triptych", *LIBRARIES}
    assert all(versions[library] for library in ("pillow", "torchvision", "transformers", "tokenizers", "open_clip_torch"))
