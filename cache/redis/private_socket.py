"""Whether a folder, and whoever answers on a socket in it, are this user's alone.

Decides what is trusted where others could have been first: a name under a temporary folder can be guessed. Knows no Redis.
"""

import os
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

Private = Callable[[], Path]
"""Where the socket of a server of this user's own is now: in a folder of this user alone, which is looked at before every connection (a
user's runtime folder may go and come)."""

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def is_private(directory: Path) -> bool:
    """A folder (no link to one) of this user, which nobody else may enter, and which nobody else can put another in the place of."""
    try:
        status = directory.lstat()
        own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
        return own and all(map(_keeps_names, _way(directory.absolute().parent)))
    except OSError:
        return False


def _way(path: Path) -> Iterator[Path]:
    """It, and all that leads there: where that is a link, also what it says, and all that leads there."""
    for each in (path, *path.parents):
        yield each
        if each.is_symlink():
            yield from _way(each.parent / each.readlink())


def _keeps_names(folder: Path) -> bool:
    """Nobody but root and this user may rename what is in it, or say what it is a link to; where others may write, it is sticky."""
    trusted, status = (0, os.getuid()), folder.stat()
    if status.st_uid not in trusted or folder.lstat().st_uid not in trusted:
        return False
    return not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX)


def refuse_unless_private(directory: Path) -> None:
    """Raises `PermissionError`."""
    if not is_private(directory):
        raise PermissionError(
            f"{directory} is not a directory for this user alone (owner {os.getuid()}, mode 700, in folders where nobody else can "
            "rename it)"
        )


def refuse_strangers(connected: socket.socket) -> None:
    """Raises `PermissionError` where another user's process is at the other end of a unix socket, root's apart. Only Linux tells."""
    if sys.platform != "linux":
        return
    _, uid, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in (0, os.getuid()):
        raise PermissionError(f"who answers there is user {uid}, not this one ({os.getuid()})")
