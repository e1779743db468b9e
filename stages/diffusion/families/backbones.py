"""Calls the networks that predict noise or velocity, each with what it wants beside the latents.

Which family has which is the family's decision. Every one takes and gives [rows, channels, height, width] float32.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from stages.contract.errors import StageFailed
from stages.device.arrays import as_tensor
from stages.diffusion.checkpoint.components import Loaded
from stages.diffusion.families.family import Condition
from stages.diffusion.messages import PromptEmbedding


class UNetBackbone:
    """Stable Diffusion 1.x and 2.x. Reads `embeds`."""

    def __init__(self, unet: Loaded) -> None:
        self._unet = unet
        self._width = int(unet.config.cross_attention_dim)
        self._guidance_width: int | None = unet.config.time_cond_proj_dim

    @property
    def device(self) -> torch.device:
        return self._unet.device

    def condition(self, prompt: PromptEmbedding, width: int, height: int) -> Condition:
        return {"encoder_hidden_states": _input("embeds", prompt.embeds, (None, self._width), self._unet)}

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition, guidance: Sequence[float]
    ) -> torch.Tensor:
        added = {name: value for name, value in condition.items() if name != "encoder_hidden_states"}
        output: torch.Tensor = self._unet.call(
            latents.to(self._unet.dtype),
            timesteps,
            encoder_hidden_states=condition["encoder_hidden_states"],
            timestep_cond=self._guidance_embedding(guidance),
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]
        return output.float()

    def _guidance_embedding(self, guidance: Sequence[float]) -> torch.Tensor | None:
        """[rows, width] sines and cosines of the scale, for a unet distilled with it (arXiv 2210.03142)."""
        if self._guidance_width is None:
            return None
        half = self._guidance_width // 2
        rates = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
        angles = (torch.tensor(guidance, dtype=torch.float32) - 1)[:, None] * 1000 * rates
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        return torch.nn.functional.pad(embedding, (0, self._guidance_width % 2)).to(self._unet.device, self._unet.dtype)


class SizedUNetBackbone(UNetBackbone):
    """Stable Diffusion XL: also told the image's size. Reads `embeds` and `pooled`."""

    def condition(self, prompt: PromptEmbedding, width: int, height: int) -> Condition:
        original, crop, target = (height, width), (0, 0), (height, width)
        sizes = torch.tensor([*original, *crop, *target]).to(self._unet.dtype)
        pooled = _input("pooled", prompt.pooled, (self._pooled_width(len(sizes)),), self._unet)
        return {**super().condition(prompt, width, height), "text_embeds": pooled, "time_ids": sizes}

    def _pooled_width(self, num_sizes: int) -> int:
        config = self._unet.config
        return int(config.projection_class_embeddings_input_dim - config.addition_time_embed_dim * num_sizes)


class _TransformerBackbone:
    """What transformers that read a prompt's positions beside the image's have in common. Reads `embeds` and `pooled`."""

    def __init__(self, transformer: Loaded) -> None:
        self._transformer = transformer

    @property
    def device(self) -> torch.device:
        return self._transformer.device

    def condition(self, prompt: PromptEmbedding, width: int, height: int) -> Condition:
        config = self._transformer.config
        return {
            "encoder_hidden_states": _input("embeds", prompt.embeds, (None, config.joint_attention_dim), self._transformer),
            "pooled_projections": _input("pooled", prompt.pooled, (config.pooled_projection_dim,), self._transformer),
        }


class JointTransformerBackbone(_TransformerBackbone):
    """Stable Diffusion 3."""

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition, guidance: Sequence[float]
    ) -> torch.Tensor:
        model = self._transformer
        output: torch.Tensor = model.call(latents.to(model.dtype), timestep=timesteps, **condition, return_dict=False)[0]
        return output.float()


class PackedTransformerBackbone(_TransformerBackbone):
    """Flux: latents are packed two by two for the model only."""

    def predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, condition: Condition, guidance: Sequence[float]
    ) -> torch.Tensor:
        model, (height, width) = self._transformer, latents.shape[2:]
        packed = torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).mT
        output: torch.Tensor = model.call(
            packed.to(model.dtype),
            timestep=timesteps / 1000,
            guidance=torch.tensor(guidance, dtype=torch.float32).to(model.device) if model.config.guidance_embeds else None,
            txt_ids=torch.zeros(condition["encoder_hidden_states"].shape[1], 3, device=model.device, dtype=model.dtype),
            img_ids=_positions(height // 2, width // 2).to(model.device, model.dtype),
            **condition,
            return_dict=False,
        )[0]
        patches = output.float().mT.reshape(len(output), -1, height // 2, width // 2)
        return torch.nn.functional.pixel_shuffle(patches, 2)


def _positions(height: int, width: int) -> torch.Tensor:
    """[height * width, 3]: 0, row, column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)


def _input(name: str, array: NDArray[Any] | None, shape: tuple[int | None, ...], model: Loaded) -> torch.Tensor:
    """One of a prompt's arrays, in the model's dtype. Raises `StageFailed` where its shape is not as wanted (None: any)."""
    if array is None or not _fits(array, shape):
        given = None if array is None else array.shape
        raise StageFailed(f"the denoiser wants {name} of shape {shape}, not {given}: the text encoder is another model's")
    return as_tensor(array, dtype=model.dtype, device="cpu")


def _fits(array: NDArray[Any], shape: tuple[int | None, ...]) -> bool:
    return array.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
