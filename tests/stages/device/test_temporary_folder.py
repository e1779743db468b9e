"""Processes of one machine look for each other in the same folder, whatever has become of its disk."""

import tempfile
from pathlib import Path

import pytest

from stages.device.temporary_folder import temporary_folder


def test_the_named_folder_is_it_though_nothing_can_be_written_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")  # what `tempfile` has where the disk is full
    assert temporary_folder({"TMPDIR": str(tmp_path)}) == tmp_path
    assert temporary_folder({"TMP": str(tmp_path), "TMPDIR": str(tmp_path / "missing")}) == tmp_path


def test_a_relative_one_is_where_this_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert temporary_folder({"TMPDIR": "here"}) == tmp_path / "here"


def test_what_is_no_folder_is_passed_by(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o755)
    assert temporary_folder({"TMPDIR": str(tmp_path / "file")}) == temporary_folder({}) == temporary_folder({"TMPDIR": ""})
