"""How the tests here run another's command: by this interpreter, and with what it said where it fails."""

from __future__ import annotations

import os
import subprocess
import sys

TIMEOUT_S = 200  # a test may take 240


def ran(module: str, *arguments: str, **environment: str) -> str:
    """What it said. `module`: as in `python -m`."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said
