"""The stages at the pixels' end: latents to pixels, and (for image-to-image) pixels to latents.

Decides scaling and rounding, both as the library's pipelines and its image processor do. Knows no prompts and no noise.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.checkpoint import Checkpoint, LoadOptions
from stages.diffusion.checkpoint_parts import DiffusersFolder, open_folder
from stages.diffusion.components import load_model
from stages.diffusion.describe import describe
from stages.diffusion.latent_scaling import LatentScaling, latent_scaling
from stages.errors import ConfigurationError, StageFailed
from stages.stage import Arrays, DecodeLatents


class VaeDecoder:
    """A one-shot stage. Its work unit is one pixel."""

    def __init__(self, vae: Any, scaling: LatentScaling, channels: int, factor: int, device: str) -> None:
        self._vae = vae
        self._scaling = scaling
        self._channels = channels
        self._factor = factor
        self._device = device

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads the vae only. Raises `ConfigurationError`."""
        folder, info = open_folder(checkpoint), describe(checkpoint)
        vae = load_vae(folder, options)
        vae.encoder = vae.quant_conv = None  # only the decoder's half is kept
        return cls(vae, latent_scaling(folder.settings("vae")), info.latent_channels, info.latent_factor, options.device)

    @property
    def device(self) -> str:
        return self._device

    def prepare(self, payload: DecodeLatents) -> NDArray[Any]:
        latents = payload.latents.get("latents")
        if latents is None or latents.ndim != 3 or latents.shape[0] != self._channels:
            shape = None if latents is None else latents.shape
            raise StageFailed(
                f"the vae decodes latents [{self._channels}, height, width], not {shape}: the denoiser is another model's"
            )
        return latents

    def batch_key(self, item: NDArray[Any]) -> Hashable:
        return item.shape

    def cost(self, item: NDArray[Any]) -> float:
        return float(item.shape[1] * item.shape[2] * self._factor**2)

    def run(self, batch: Sequence[NDArray[Any]]) -> Sequence[Arrays]:
        with torch.inference_mode():
            latents = torch.from_numpy(np.stack(batch)).to(self._vae.device, torch.float32)
            picture = self._vae.decode(self._scaling.to_vae(latents).to(self._vae.dtype), return_dict=False)[0]
            pixels = (picture * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
            rounded = (pixels * 255).round().to(torch.uint8).contiguous().cpu().numpy()
        return [{"pixels": picture} for picture in rounded]


def load_vae(folder: DiffusersFolder, options: LoadOptions) -> Any:
    library, class_name = folder.class_of("vae")
    if (library, class_name) != ("diffusers", "AutoencoderKL"):
        raise ConfigurationError(f"{folder.index.path}: vae {class_name} is not supported; supported is AutoencoderKL")
    if options.dtype == "float16" and folder.settings("vae").flag("force_upcast", default=True):
        options = replace(options, dtype="float32")  # as the setting says: its activations overflow float16
    return load_model(folder, "vae", options)
