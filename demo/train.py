"""`python -m demo.train`: trains every demo model, in order, into `demo/weights`. Run it again and it resumes.

Decides the order (CLIP, autoencoder, projector, painter) and each one's budget. Checkpoints and the autoencoder's fp32 weights
lie in `demo/.work`; removing that folder starts over.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from demo import train_clip, train_painter, train_projector, train_vae
from demo.loop import Budget

WEIGHTS = Path(__file__).parent / "weights"
PARTS = ("clip", "vae", "projector", "painter")


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog="demo.train", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder for clip, projector and painter")
    parser.add_argument("--only", choices=PARTS, help="train one part; those it needs must be trained already")
    parser.add_argument("--further", action="store_true", help="train the painter on, from the weights already in its folder")
    parser.add_argument("--scale", type=float, default=1.0, help="a multiple of every budget")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.further and options.only != "painter":
        parser.error("--further goes with --only painter")
    trainings = _trainings(options.weights, torch.device(options.device), options.scale, further=options.further)
    for part in [options.only] if options.only else PARTS:
        started = time.monotonic()
        print(f"training {part}", flush=True)
        trainings[part]()
        print(f"{part}: {(time.monotonic() - started) / 60:.1f} minutes", flush=True)


def _trainings(weights: Path, device: torch.device, scale: float, *, further: bool) -> dict[str, Callable[[], None]]:
    def budget(minutes: float, pictures: int) -> Budget:
        return Budget(minutes * scale, int(pictures * scale))

    clip, projector, painter = weights / "clip", weights / "projector", weights / "painter"
    return {
        "clip": lambda: train_clip.train(clip, (budget(20, 400_000), budget(30, 600_000)), device),
        "vae": lambda: train_vae.train(budget(15, 60_000), device),
        "projector": lambda: train_projector.train(projector, clip, budget(30, 40_000), device),
        "painter": lambda: train_painter.train(painter, clip, budget(90, 600_000), device, further=further),
    }


if __name__ == "__main__":
    main()
