"""The tokenizer that a checkpoint carries, in its own files or in a GGUF file. Knows no model weights."""

from pathlib import Path
from typing import Any

from stages.contract.errors import ConfigurationError
from stages.device.torchvision_shim import ensure_torchvision
from stages.llm.model.unpacked import unpacked


def gguf_file(folder: Path) -> str | None:
    """The name of the folder's GGUF file; None for a folder in the ordinary format. Several: `ConfigurationError`."""
    if (folder / "config.json").exists():
        return None
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if len(found) > 1:
        raise ConfigurationError(
            f"{folder} holds {len(found)} GGUF files ({', '.join(found)}); keep the one that is to be served"
        )
    return found[0] if found else None


def load_tokenizer(folder: Path) -> Any:
    """A fast `transformers` tokenizer. Raises `ConfigurationError` where the folder holds none."""
    ensure_torchvision()
    gguf = gguf_file(folder)
    try:
        tokenizer = _from_folder(folder) if gguf is None else _from_gguf(folder, gguf)
    except Exception as error:
        raise ConfigurationError(f"{folder} holds no tokenizer that transformers can load: {error}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigurationError(
            f"{folder}: its tokenizer ({type(tokenizer).__name__}) has no fast form, which streaming needs"
        )
    return tokenizer


def _from_folder(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)


def _from_gguf(folder: Path, gguf: str) -> Any:
    from transformers import AutoTokenizer

    def read() -> Any:
        return AutoTokenizer.from_pretrained(str(folder), gguf_file=gguf, trust_remote_code=False)

    kept = unpacked(folder, "tokenizer", lambda target: read().save_pretrained(target))
    return read() if kept is None else _from_folder(kept)
