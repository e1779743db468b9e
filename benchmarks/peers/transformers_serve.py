"""`transformers serve`, with what its imports need where torchvision's C++ library does not load."""

from __future__ import annotations

from stages.torchvision_shim import ensure_torchvision


def main() -> None:
    """Takes the command line of `transformers`."""
    ensure_torchvision()
    from transformers.cli.transformers import main as transformers_main

    transformers_main()


if __name__ == "__main__":
    main()
