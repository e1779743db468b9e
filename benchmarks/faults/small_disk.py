"""A disk of a few GiB for what a server writes, and how it is filled. Knows no requests; needs the right to mount one."""

from __future__ import annotations

import errno
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

SIZE_MIB = 2048
FILL_S = 0.05
_BLOCK = bytes(2**20)
_FILLS = "fills-the-disk"


class NoDisk(Exception):
    """This machine mounts none for us; why is in the message."""


@contextmanager
def small_disk(size_mib: int = SIZE_MIB) -> Iterator[Path]:
    """Its folder, in memory. Raises `NoDisk`."""
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:  # a short name: sockets lie beneath
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise NoDisk(str(error)) from None
        except subprocess.CalledProcessError as error:
            raise NoDisk(error.stderr.strip()) from None
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def written_there(folder: Path) -> Mapping[str, str]:
    """The environment of a server that writes to it: Ray's session and logs, sockets, temporary files. Models are where they were."""
    names = ("TMPDIR", "RAY_TMPDIR", "XDG_RUNTIME_DIR")
    folder.chmod(0o700)
    return dict.fromkeys(names, str(folder))


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not a byte is left as the block begins, and what others free until it ends is taken soon."""
    fills, is_over = folder / _FILLS, threading.Event()
    try:
        with fills.open("wb", buffering=0) as file:
            _fill(file)
            again = threading.Thread(target=_keep_full, args=(file, is_over))
            again.start()
            try:
                yield
            finally:
                is_over.set()
                again.join()
    finally:
        fills.unlink(missing_ok=True)


def _keep_full(file: FileIO, is_over: threading.Event) -> None:
    while not is_over.wait(FILL_S):
        _fill(file)


def _fill(file: FileIO) -> None:
    for block in (_BLOCK, _BLOCK[:4096]):
        try:
            while True:
                file.write(block)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
