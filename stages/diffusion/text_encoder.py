"""The stage that turns prompts into what a denoiser is conditioned on. Knows no pictures and no requests."""

from collections.abc import Hashable, Sequence
from typing import Self

import torch

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.result import Arrays
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import PromptEncoder
from stages.diffusion.messages import EncodePrompt
from stages.diffusion.text.prompt_tokenizer import TokenIds


class TextEncoder:
    """A one-shot stage. Its work unit is one prompt token, padding included. Results are named by the family's encoder."""

    def __init__(self, encoder: PromptEncoder, device: str) -> None:
        self._encoder = encoder
        self._device = device

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads tokenizers and text encoders only. Raises `ConfigurationError`."""
        folder = open_folder(checkpoint)
        return cls(family_of(folder).load_prompt_encoder(folder, options), options.device)

    @property
    def device(self) -> str:
        return self._device

    def prepare(self, payload: EncodePrompt) -> TokenIds:
        """Raises `InvalidRequest` for a prompt that is too long."""
        return self._encoder.tokenize(payload.text, payload.min_positions)

    def batch_key(self, item: TokenIds) -> Hashable:
        return ()  # whatever their lengths: they are chunks of the same one

    def cost(self, item: TokenIds) -> float:
        return float(sum(ids.size for name, ids in item.items() if name.startswith("ids")))

    def run(self, batch: Sequence[TokenIds]) -> Sequence[Arrays]:
        with torch.inference_mode():
            return self._encoder.encode(batch)
