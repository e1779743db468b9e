"""Between a VAE's own latents and those that its denoiser was trained on: one linear map, from the VAE's settings."""

from dataclasses import dataclass

import torch

from stages.diffusion.checkpoint.checkpoint_parts import Settings


@dataclass(frozen=True, slots=True)
class LatentScaling:
    """denoiser's = (vae's - shift) * scale, both one number or one a channel [1, channels, 1, 1]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def to_vae(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.scale.to(latents.device) + self.shift.to(latents.device)

    def to_denoiser(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - self.shift.to(latents.device)) * self.scale.to(latents.device)

    def width_to_denoiser(self, widths: torch.Tensor) -> torch.Tensor:
        """For standard deviations, which don't shift."""
        return widths * self.scale.to(widths.device)


def latent_scaling(vae: Settings) -> LatentScaling:
    """From the vae's config: per-channel means and standard deviations where it has them, and its factor and shift."""
    factor = torch.tensor(vae.number("scaling_factor", 0.18215))
    if vae.has("latents_mean") and vae.has("latents_std"):
        return LatentScaling(factor / _by_channel(vae, "latents_std"), _by_channel(vae, "latents_mean"))
    return LatentScaling(factor, torch.tensor(vae.number("shift_factor") if vae.has("shift_factor") else 0.0))


def _by_channel(vae: Settings, name: str) -> torch.Tensor:
    return torch.tensor(vae.numbers(name)).view(1, -1, 1, 1)
