"""The demo models through their own libraries, without the server: what `demo.evaluate` measures by default.

Decides nothing; loads a model when it is first asked. Knows no scenes and no scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from demo.measuring.answering import Answerer
from demo.painter import GUIDANCE, NUM_STEPS, load_painter
from demo.world import SIZE
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.tower import LOCAL_PREFIX


class LibraryModels:
    """CLIP by open_clip, answers by transformers, paintings by diffusers, from a folder of weights."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._weights, self._device = weights, device

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        model, _, tokenize = self._clip
        found: NDArray[np.float32] = model.encode_text(tokenize(list(texts)).to(self._device), normalize=True).cpu().numpy()
        return found

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        model, transform, _ = self._clip
        pixels = torch.stack([transform(image) for image in images]).to(self._device)
        found: NDArray[np.float32] = model.encode_image(pixels, normalize=True).cpu().numpy()
        return found

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return self._answerer.answer(list(images), list(questions))

    def paint(self, sentences: Sequence[str], first_seed: int) -> list[Image.Image]:
        generators = [torch.Generator().manual_seed(first_seed + index) for index in range(len(sentences))]
        found = self._painter(
            list(sentences),
            height=SIZE,
            width=SIZE,
            num_inference_steps=NUM_STEPS,
            guidance_scale=GUIDANCE,
            generator=generators,
        )
        return list(found.images)

    @cached_property
    def _clip(self) -> tuple[Any, Any, Any]:
        ensure_torchvision()
        import open_clip

        source = f"{LOCAL_PREFIX}{self._weights / 'clip'}"
        model, _, transform = open_clip.create_model_and_transforms(source, device=self._device, weights_only=True)
        return model.eval(), transform, open_clip.get_tokenizer(source)

    @cached_property
    def _answerer(self) -> Answerer:
        return Answerer(self._weights, self._device)

    @cached_property
    def _painter(self) -> Any:
        return load_painter(self._weights / "painter", self._device)
