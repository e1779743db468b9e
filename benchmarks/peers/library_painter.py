"""diffusers' own `StableDiffusionPipeline` as peers use it: wishes in, PNGs out. Knows no HTTP."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.loads.wishes import Wish


class LibraryPainter:
    """Loads the pipeline in float32."""

    def __init__(self, folder: Path, *, torch_threads: int) -> None:
        import torch

        from stages.device.torchvision_shim import ensure_torchvision

        ensure_torchvision()
        from diffusers import StableDiffusionPipeline

        torch.set_num_threads(torch_threads)
        self._torch: Any = torch
        self._pipeline: Any = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        self._pipeline.set_progress_bar_config(disable=True)

    def paint(self, wishes: Sequence[Wish], *, steps: int | None = None) -> list[bytes]:
        """One call of the pipeline, which has one number of steps and one guidance scale: those of the first wish, unless told.
        A PNG each."""
        images = self._pipeline(
            prompt=[wish.prompt for wish in wishes],
            num_inference_steps=steps or wishes[0].steps,
            guidance_scale=wishes[0].guidance,
            generator=[self._torch.Generator("cpu").manual_seed(wish.seed) for wish in wishes],
        ).images
        return [_png(image) for image in images]


def wish_of(body: dict[str, Any]) -> Wish:
    """From the JSON that clients send."""
    return Wish(str(body["prompt"]), int(body["steps"]), float(body["guidance"]), int(body["seed"]))


def answer_of(png: bytes) -> dict[str, str]:
    """As JSON, in the form that OpenAI's answer has too."""
    return {"b64_json": base64.b64encode(png).decode()}


def _png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
