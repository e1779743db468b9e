"""The versions of what turns images and text into tensors and of what computes with those, for names: another decoder, resizing,
tokenizer or kernel makes other results, and another torch can't read a denoiser's kept random generator.

Decides which libraries count. Reads installed packages' metadata; imports none of them.
"""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

PREPROCESSING_VERSION = 1
"""Of our own part in it (`stages/images/image.py`, what the stages' `prepare` does). Raise it when that changes a tensor."""

LIBRARIES = (
    "pillow",
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "open_clip_torch",
    "ftfy",
    "diffusers",
)


@cache
def input_versions() -> dict[str, str | int | None]:
    """Of this process; None: not installed. Without the build ("+cpu"): it computes the same."""
    return {"triptych": PREPROCESSING_VERSION, **{library: _version(library) for library in LIBRARIES}}


def _version(library: str) -> str | None:
    try:
        return version(library).partition("+")[0]
    except PackageNotFoundError:
        return None
