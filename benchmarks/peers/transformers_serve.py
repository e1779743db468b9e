"""`transformers serve`, with what its imports need where torchvision's C++ library does not load."""

from __future__ import annotations

from typing import Any

from stages.device.torchvision_shim import ensure_torchvision


def main() -> None:
    """Takes the command line of `transformers`."""
    ensure_torchvision()
    _decode_with_pillow()
    from transformers.cli.transformers import main as transformers_main

    transformers_main()


def _decode_with_pillow() -> None:
    """Images are decoded by torchvision's C++ library, or, where that does not load, by Pillow."""
    from torchvision.io.image import _has_image_ops
    from transformers import image_processing_backends as backends
    from transformers.image_utils import load_image, load_image_as_tensor

    def decoded(source: Any, **options: Any) -> Any:
        return load_image_as_tensor(load_image(source), **options)

    if not _has_image_ops():
        backends.load_image_as_tensor = decoded


if __name__ == "__main__":
    main()
