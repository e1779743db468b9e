"""Where processes of one machine find each other's sockets and shared files."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def temporary_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """As `tempfile` has it, which passes by a folder whose disk is full: a process that starts then would look elsewhere than others."""
    named = [environment.get(name, "") for name in ("TMPDIR", "TEMP", "TMP")]
    for folder in (*named, "/tmp"):
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(os.path.abspath(folder))
    return Path(tempfile.gettempdir())
