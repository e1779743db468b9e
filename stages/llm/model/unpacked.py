"""A GGUF file as an ordinary folder, unpacked once per machine.

Reading a GGUF file takes the library seconds of one core for every process that needs it (its metadata are parsed in
Python, token by token); the same tokenizer and weights as JSON and safetensors take a fraction of one. Decides where the
unpacked form is kept (the assets folder of the Hugging Face cache, under the file's digest) and that a machine without room
for it does without.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from stages.checkpoints.checkpoint import content_digest

_LIBRARY = "triptych"


def unpacked(folder: Path, part: str, write: Callable[[Path], None]) -> Path | None:
    """The folder with `part` ("tokenizer", "bfloat16", ...) of the GGUF file in `folder`, written by `write` where it is
    not there yet. None where it cannot be kept. What `write` raises is raised."""
    import transformers

    digest = content_digest(folder, sorted(folder.glob("*.gguf")))
    try:
        home = _home() / f"{digest}-{transformers.__version__}"
        home.mkdir(parents=True, exist_ok=True)
        started = Path(tempfile.mkdtemp(dir=home))
    except OSError:
        return None
    try:
        return _kept(home / part, started, write)
    finally:
        shutil.rmtree(started, ignore_errors=True)


def _kept(target: Path, started: Path, write: Callable[[Path], None]) -> Path | None:
    if target.is_dir():
        return target
    try:
        write(started / "done")
        os.replace(started / "done", target)  # complete or not there, whoever else is doing the same
    except OSError:
        return target if target.is_dir() else None
    return target


def _home() -> Path:
    from huggingface_hub import cached_assets_path

    return Path(cached_assets_path(_LIBRARY, namespace="gguf"))
