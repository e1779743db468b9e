"""Asks the demo's vision-language model about images, without the server: tower, projector, SmolLM2, greedy.

Decides how prompts of different lengths share a batch. Knows no scenes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from demo.language_model import cut_prompt, embed, load_model, load_tokenizer
from stages.vision.clip.projector import Projector
from stages.vision.clip.tower import OpenClipTower

_MAX_NEW_TOKENS = 28


class Answerer:
    """The demo's vision-language model."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._device = device
        self._projector = Projector.load(weights / "projector").to(device)
        self._tower = OpenClipTower(weights / "clip", self._projector.config.vision_layer).to(device)
        self._model, self._tokenizer = load_model(device), load_tokenizer()

    @torch.no_grad()
    def answer(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        """The greedy answer to one question about each image."""
        pixels = torch.stack([self._tower.preprocess(image) for image in images])
        soft = self._projector(self._tower.tokens(pixels.to(self._device)))
        rows = [self._row(soft[index], question) for index, question in enumerate(questions)]
        inputs, mask = _left_padded(rows)
        found = self._model.generate(
            inputs_embeds=inputs,
            attention_mask=mask,
            max_new_tokens=_MAX_NEW_TOKENS,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.eos_token_id,
        )
        return [text.strip() for text in self._tokenizer.batch_decode(found, skip_special_tokens=True)]

    def _row(self, soft: Tensor, question: str) -> Tensor:
        prompt = cut_prompt(self._tokenizer, self._projector.config, question)
        return torch.cat([embed(self._model, prompt.before), soft, embed(self._model, prompt.behind)])


def _left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of [tokens, width] -> [rows, longest, width] and the mask of what is no padding."""
    longest = max(len(row) for row in rows)
    inputs = torch.zeros(len(rows), longest, rows[0].shape[1], device=rows[0].device)
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=rows[0].device)
    for index, row in enumerate(rows):
        inputs[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return inputs, mask
