"""Between a VAE's own latents and those that its denoiser was trained on: one linear map, from the VAE's settings."""

from dataclasses import dataclass

import torch

from stages.diffusion.checkpoint_parts import DiffusersFolder


@dataclass(frozen=True, slots=True)
class LatentScaling:
    """denoiser's = (vae's - shift) * scale."""

    scale: float
    shift: float = 0.0

    def to_vae(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.scale + self.shift

    def to_denoiser(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - self.shift) * self.scale


def latent_scaling(folder: DiffusersFolder) -> LatentScaling:
    vae = folder.settings("vae")
    return LatentScaling(
        vae.number("scaling_factor", 0.18215), vae.number("shift_factor", 0.0) if vae.has("shift_factor") else 0.0
    )
