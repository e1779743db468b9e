"""A disk that is full, and no longer."""

import errno

import pytest

from benchmarks.faults.small_disk import NoDisk, full, small_disk

MIB = 8


def test_nothing_can_be_written_while_it_is_full_and_all_that_was_there_is_kept() -> None:
    try:
        with small_disk(MIB) as folder:
            (folder / "before").write_bytes(b"kept")
            with full(folder), pytest.raises(OSError, match="No space left") as found, (folder / "log").open("wb") as file:
                file.write(bytes(2**16))
            assert found.value.errno == errno.ENOSPC
            (folder / "after").write_bytes(bytes((MIB - 1) * 2**20))
            assert (folder / "before").read_bytes() == b"kept"
    except NoDisk as reason:
        pytest.skip(f"no disk can be mounted here: {reason}")
