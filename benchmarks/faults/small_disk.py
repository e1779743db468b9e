"""A disk of a few GiB for what a server writes, and how it is filled. Knows no requests; needs the right to mount one."""

from __future__ import annotations

import errno
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE_MIB = 2048
_BLOCK = bytes(2**20)
_FILLS = "fills-the-disk"


class NoDisk(Exception):
    """This machine mounts none for us; why is in the message."""


@contextmanager
def small_disk() -> Iterator[Path]:
    """Its folder, in memory. Raises `NoDisk`."""
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:  # a short name: sockets lie beneath
        mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", folder]
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
    """Not a byte is left until the block ends."""
    fills = folder / _FILLS
    try:
        with suppress(OSError), fills.open("wb", buffering=0) as file:
            while True:
                file.write(_BLOCK)
        left = _left(folder)
        if left:
            raise RuntimeError(f"{left} bytes are left on the full disk")
        yield
    finally:
        fills.unlink(missing_ok=True)


def _left(folder: Path) -> int:
    """Of a block, how much could still be written."""
    probe = folder / f"{_FILLS}-too"
    try:
        with probe.open("wb", buffering=0) as file:
            return file.write(_BLOCK)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0
    finally:
        probe.unlink(missing_ok=True)
