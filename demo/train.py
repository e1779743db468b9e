"""`python -m demo.train`: trains every demo model, in order, into `demo/weights`. Run it again and it resumes.

Decides the order (CLIP, autoencoder, projector, painter, the autoencoder's decoder) and each one's budget. With `--further`, the
models in `demo/weights` are trained on instead: the vision tower, the projector that reads it, the painter, the decoder.
Checkpoints and the autoencoder's fp32 weights lie in `demo/.work`; removing that folder starts over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from demo.training import clip as train_clip
from demo.training import painter as train_painter
from demo.training import projector as train_projector
from demo.training import vae as train_vae
from demo.training.loop import Budget

WEIGHTS = Path(__file__).parent / "weights"
PARTS = ("clip", "vae", "projector", "painter", "decoder")


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog="demo.train", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder for clip, projector and painter")
    parser.add_argument("--only", choices=PARTS, help="train one part; those it needs must be trained already")
    parser.add_argument("--further", action="store_true", help="train on, from the weights already in the folder")
    parser.add_argument("--scale", type=float, default=1.0, help="a multiple of every budget")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    make = _further_trainings if options.further else _trainings
    trainings = make(options.weights, torch.device(options.device), options.scale)
    if options.only and options.only not in trainings:
        parser.error(f"with --further, --only is one of {', '.join(trainings)}")
    for part in [options.only] if options.only else trainings:
        started = time.monotonic()
        print(f"training {part}", flush=True)
        trainings[part]()
        print(f"{part}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def _trainings(weights: Path, device: torch.device, scale: float) -> dict[str, Callable[[], None]]:
    clip, projector, painter = weights / "clip", weights / "projector", weights / "painter"
    clip_budgets = (_budget(scale, 20, 400_000), _budget(scale, 60, 1_200_000))
    return {
        "clip": lambda: train_clip.train(clip, clip_budgets, device),
        "vae": lambda: train_vae.train(_budget(scale, 15, 60_000), device),
        "projector": lambda: train_projector.train(projector, clip, _budget(scale, 45, 60_000), device),
        "painter": lambda: train_painter.train(painter, clip, _budget(scale, 90, 600_000), device),
        "decoder": lambda: train_vae.train_decoder(painter, _budget(scale, 10, 60_000), device),
    }


def _further_trainings(weights: Path, device: torch.device, scale: float) -> dict[str, Callable[[], None]]:
    clip, projector, painter = weights / "clip", weights / "projector", weights / "painter"
    return {
        "clip": lambda: train_clip.train_further(clip, _budget(scale, 25, 600_000), device),
        "projector": lambda: train_projector.train(projector, clip, _budget(scale, 20, 40_000), device, further=True),
        "painter": lambda: train_painter.train(painter, clip, _budget(scale, 90, 600_000), device, further=True),
        "decoder": lambda: train_vae.train_decoder(painter, _budget(scale, 10, 60_000), device),
    }


def _budget(scale: float, minutes: float, images: int) -> Budget:
    return Budget(minutes * scale, int(images * scale))


if __name__ == "__main__":
    main()
