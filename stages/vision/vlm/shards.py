"""A sharded checkpoint of which only some shards are there, as a folder that `from_pretrained` can read.

Decides which tensors' shards are opened. Knows files, no weights and no models.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def is_of(tensor: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to one of the modules, by its name; wherever they stand, as they moved between releases."""
    return any(f".{module}." in f".{tensor}" for module in modules)


@contextmanager
def only_shards(folder: Path, holds: Callable[[str], bool]) -> Iterator[Path]:
    """While open, a folder from which `from_pretrained` reads the shards of these tensors only: it opens every shard that an index
    lists, and of a hub source there are none but the part's own. Unsharded: the folder itself."""
    if (folder / "model.safetensors").exists() or not any((folder / index).exists() for index in _INDEXES):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for path in folder.iterdir():
            if path.name not in _INDEXES:
                (Path(made) / path.name).symlink_to(path.resolve())
        for index in (folder / name for name in _INDEXES if (folder / name).exists()):
            listed = json.loads(index.read_text())
            mine = {tensor: shard for tensor, shard in listed["weight_map"].items() if holds(tensor)}
            (Path(made) / index.name).write_text(json.dumps(listed | {"weight_map": mine}))
        yield Path(made)
