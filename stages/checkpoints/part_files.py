"""Which files of a checkpoint make a part: of all that a repository or folder holds, what the libraries read, and nothing else.

Decides by names, by preference (safetensors before pickled weights, one format, no half-precision copies) and, where weights are
sharded, by what the shards' index says. Pure: knows no hub and no disk, and of models only what they call their tensors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from stages.contract.errors import ConfigurationError

ReadJson = Callable[[str], Mapping[str, object]]
"""The content of one of the checkpoint's JSON files, by its name."""
Holds = Callable[[Mapping[str, object], str], bool]
"""Whether the part reads a tensor, by the model's config.json and the tensor's name in the file."""

_INDEX = ".index.json"
_GGUF = "*.gguf"


@dataclass(frozen=True, slots=True)
class Weights:
    """Where weights lie in a folder of the checkpoint, the best first. `folder` is a pattern ("": the top); a file may be an
    index, which stands for the shards that it lists, or `*.gguf`."""

    folder: str
    files: tuple[str, ...]


TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    _GGUF,
)
"""In the order in which `from_pretrained` looks for them."""

TEXT_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja", "additional_chat_templates/*.jinja")
"""Configuration, tokenizer, processor, chat templates."""


@dataclass(frozen=True, slots=True)
class PartFiles:
    """Names are paths with "/", relative to the checkpoint's folder; in patterns, `*` stays within a folder's name.

    `settings`: patterns of what is read beside weights. `holds`: which tensors of sharded weights are this part's (None: all).
    `neighbours`: patterns of other parts' settings that are looked at too. `reads_weights` False: of the weights only a GGUF file
    is wanted, which carries tokenizer and settings too.
    """

    settings: tuple[str, ...]
    weights: tuple[Weights, ...] = ()
    holds: Holds | None = None
    neighbours: tuple[str, ...] = ()
    reads_weights: bool = True

    def without_weights(self) -> "PartFiles":
        """What a process reads that only prepares this part's input."""
        return replace(self, reads_weights=False)

    def settings_in(self, names: Sequence[str]) -> list[str]:
        """Of `names`, those with settings, and the indexes of sharded weights. Raises `ConfigurationError` where there are several
        GGUF files."""
        chosen = [file for _, file in self._chosen(names) if file is not None]
        # A GGUF file has its own configuration; beside a config.json it would be taken for an ordinary folder.
        hidden = {"config.json"} if any(name.endswith(".gguf") for name in chosen) else set()
        indexes = {name for name in chosen if name.endswith(_INDEX)} if self.reads_weights else set()
        found = {name for name in _matching(names, self.settings) if not name.endswith(".json") or ".index." not in name}
        return sorted(found - hidden | indexes)

    def neighbours_in(self, names: Sequence[str]) -> list[str]:
        return sorted(_matching(names, self.neighbours))

    def weights_in(self, names: Sequence[str], read: ReadJson) -> list[str]:
        """Of `names`, those with this part's weights; and shards that an index lists, there or not. Raises `ConfigurationError`
        where there are none that could be loaded, or several where one is wanted."""
        found: set[str] = set()
        for wanted, file in self._chosen(names):
            if file is not None and file.endswith(".gguf"):
                found.add(file)
            elif self.reads_weights and file is None:
                raise ConfigurationError(f"there are no weights that could be loaded: none of {wanted}")
            elif self.reads_weights and file is not None:
                found |= self._shards(file, read) if file.endswith(_INDEX) else {file}
        return sorted(found)

    def _chosen(self, names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """For every folder with weights: what may be there, and the best that is."""
        for weights in self.weights:
            for folder in sorted(_folders(names, weights.folder)):
                inside = {name for name in names if name.rpartition("/")[0] == folder}
                yield ", ".join(_in(folder, file) for file in weights.files), _best(weights, folder, inside)

    def _shards(self, index: str, read: ReadJson) -> set[str]:
        folder, _, _ = index.rpartition("/")
        listed = read(index).get("weight_map")
        if not isinstance(listed, dict):
            raise ConfigurationError(f"{index} has no weight_map: it is no index of weights")
        config = read("config.json") if self.holds is not None else {}
        return {
            _in(folder, str(shard))
            for tensor, shard in listed.items()
            if self.holds is None or self.holds(config, str(tensor))
        }


WHOLE_MODEL = PartFiles(TEXT_SETTINGS, (Weights("", TRANSFORMERS_WEIGHTS),))
"""An ordinary `transformers` checkpoint, or a GGUF file."""


def _folders(names: Sequence[str], pattern: str) -> set[str]:
    return {folder for folder in ("", *(name.rpartition("/")[0] for name in names)) if _matches(folder, pattern)}


def _best(weights: Weights, folder: str, inside: set[str]) -> str | None:
    for file in weights.files:
        matching = sorted(name for name in inside if _matches(name, _in(folder, file)))
        if len(matching) > 1:
            raise ConfigurationError(
                f"there are {len(matching)} files {file} ({', '.join(matching)}); put the one that is to be served into a folder of "
                "its own, and give that as source.folder"
            )
        if matching:
            return matching[0]
    return None


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    return {name for name in names if any(_matches(name, pattern) for pattern in patterns)}


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _in(folder: str, file: str) -> str:
    return f"{folder}/{file}" if folder else file
