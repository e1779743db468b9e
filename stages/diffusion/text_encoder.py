"""The stage that turns prompts into what a denoiser is conditioned on. Knows no images and no requests."""

from collections.abc import Hashable, Sequence
from typing import Self

import torch

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.recipe import Inputs
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.families.families import family_of
from stages.diffusion.families.family import PromptEncoder, PromptTokens
from stages.diffusion.messages import EncodePrompt, PromptEmbedding
from stages.diffusion.text.prompt_tokenizer import TokenIds, num_tokens
from stages.diffusion.work import prompt_work


class TextEncoder:
    """A `OneShotStage[EncodePrompt, TokenIds, PromptEmbedding]`. Its work unit is one prompt token, padding included."""

    def __init__(self, tokens: PromptTokens, encoder: PromptEncoder, device: str) -> None:
        self._tokens, self._encoder = tokens, encoder
        self._device = device
        self._least = self.cost(tokens.tokenize(""))

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads tokenizers and text encoders only. Raises `ConfigurationError`."""
        folder = open_folder(checkpoint)
        family = family_of(folder)
        return cls(family.load_prompt_tokens(folder), family.load_prompt_encoder(folder, options), options.device)

    @property
    def device(self) -> str:
        return self._device

    @property
    def result_type(self) -> type[PromptEmbedding]:
        return PromptEmbedding

    def check(self, payload: EncodePrompt) -> None:
        """Whether a prompt is too long shows when it is tokenized."""

    def weigh(self, payload: EncodePrompt) -> float:
        """An estimate: by the letters, and no less than the empty text's."""
        return prompt_work(payload.text, payload.min_positions, self._least)

    def prepare(self, payload: EncodePrompt, inputs: Inputs) -> TokenIds:
        """Raises `InvalidRequest` for a prompt that is too long."""
        return self._tokens.tokenize(payload.text, payload.min_positions)

    def batch_key(self, item: TokenIds) -> Hashable:
        return ()  # whatever their lengths: they are chunks of the same one

    def cost(self, item: TokenIds) -> float:
        return float(num_tokens(item))

    def run(self, batch: Sequence[TokenIds]) -> Sequence[PromptEmbedding]:
        with torch.inference_mode():
            return self._encoder.encode(batch)
