"""An ordinary diffusers folder: its index, each component's settings, and which files make which stage.

Decides nothing about models: it reads JSON and answers typed questions. Knows no torch, no diffusers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.checkpoints.checkpoint import Checkpoint
from stages.checkpoints.part_files import PartFiles, Weights
from stages.contract.errors import ConfigurationError

_INDEX = "model_index.json"
_FOLDERS = {
    "text_encoder": ("text_encoder*", "tokenizer*"),
    "denoiser": ("unet", "transformer", "scheduler"),
    "vae_decoder": ("vae",),
    "vae_encoder": ("vae",),
}
# In the order in which each library looks for them; pickled weights are never loaded.
_TEXT_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_WEIGHTS = ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors")
_WITH_WEIGHTS = {"text_encoder*": _TEXT_WEIGHTS, "unet": _WEIGHTS, "transformer": _WEIGHTS, "vae": _WEIGHTS}

SETTINGS = PartFiles((_INDEX, "*/*config.json"))
"""What tells what a checkpoint can do, without weights."""


def part_files(part: str) -> PartFiles:
    """The files of one part and no other's. Raises `ConfigurationError`.

    `part`: "text_encoder", "denoiser", "vae_decoder" or "vae_encoder". The index belongs to every part: it names
    their classes.
    """
    if part not in _FOLDERS:
        raise ConfigurationError(f"{part!r} is not a part of a diffusers checkpoint; it has {', '.join(_FOLDERS)}")
    folders = _FOLDERS[part]
    settings = tuple(f"{folder}/*.{suffix}" for folder in folders for suffix in ("json", "txt", "model"))
    weights = tuple(Weights(folder, _WITH_WEIGHTS[folder]) for folder in folders if folder in _WITH_WEIGHTS)
    return PartFiles((_INDEX, *settings), weights, neighbours=SETTINGS.settings)


@dataclass(frozen=True, slots=True)
class Settings:
    """One JSON file of settings. Raises `ConfigurationError`, naming file and field, where one is missing or mistyped."""

    path: Path
    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ConfigurationError(f"{self.path}: {name} must be an integer, not {value!r}")

    def number(self, name: str, default: float | None = None) -> float:
        value = self.values.get(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        raise ConfigurationError(f"{self.path}: {name} must be a number, not {value!r}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name, default)
        if isinstance(value, str):
            return value
        raise ConfigurationError(f"{self.path}: {name} must be a string, not {value!r}")

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.values.get(name, default))

    def count(self, name: str) -> int:
        """The length of a list."""
        value = self.values.get(name)
        if isinstance(value, list):
            return len(value)
        raise ConfigurationError(f"{self.path}: {name} must be a list, not {value!r}")

    def numbers(self, name: str) -> list[float]:
        value = self.values.get(name)
        if isinstance(value, list) and all(isinstance(one, int | float) for one in value):
            return [float(one) for one in value]
        raise ConfigurationError(f"{self.path}: {name} must be a list of numbers, not {value!r}")

    def pair(self, name: str) -> tuple[int, int]:
        """(height, width) of a setting that is one integer for both, or a list of two."""
        value = self.values.get(name)
        if isinstance(value, int):
            return value, value
        if isinstance(value, list) and len(value) == 2:
            return int(value[0]), int(value[1])
        raise ConfigurationError(f"{self.path}: {name} must be an integer or a list of two, not {value!r}")


@dataclass(frozen=True, slots=True)
class DiffusersFolder:
    """A folder with `model_index.json` and a sub-folder for each component. `name`: what its source is called."""

    path: Path
    index: Settings
    name: str

    @property
    def pipeline_class(self) -> str:
        return self.index.text("_class_name")

    @property
    def latent_factor(self) -> int:
        """Pixels along a side for one latent position."""
        return 1 << (self.settings("vae").count("block_out_channels") - 1)

    def has(self, component: str) -> bool:
        return self._entry(component) is not None

    def class_of(self, component: str) -> tuple[str, str]:
        """(library, class name) of a component. Raises `ConfigurationError`."""
        entry = self._entry(component)
        if entry is None:
            raise ConfigurationError(f"{self.index.path}: this {self.pipeline_class} has no {component}")
        return entry

    def settings(self, component: str, file: str = "config.json") -> Settings:
        return read_settings(self.path / component / file)

    def _entry(self, component: str) -> tuple[str, str] | None:
        value = self.index.values.get(component)
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], str):
            return value[0], value[1]
        return None


def open_folder(checkpoint: Checkpoint) -> DiffusersFolder:
    """Raises `ConfigurationError` where the checkpoint is no diffusers folder."""
    name = checkpoint.source.hub or checkpoint.folder.name
    return DiffusersFolder(checkpoint.folder, read_settings(checkpoint.folder / "model_index.json"), name)


def read_settings(path: Path) -> Settings:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}); a diffusers folder has this file") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: must hold a JSON object")
    return Settings(path, values)
