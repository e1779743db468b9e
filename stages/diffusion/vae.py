"""The stages at the pixels' end: latents to pixels, and (for image-to-image) pixels to latents.

Decides scaling and rounding, both as the library's pipelines and its image processor do. Knows no prompts and no noise. Each
keeps its half of the vae only. Where memory is short, a batch is done in pieces (`pieces.py`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions
from stages.contract.errors import ConfigurationError, InvalidRequest, StageFailed
from stages.contract.recipe import Inputs
from stages.diffusion.checkpoint.checkpoint_parts import open_folder
from stages.diffusion.checkpoint.components import Loaded, load_model
from stages.diffusion.families.latent_scaling import LatentScaling, latent_scaling
from stages.diffusion.messages import DecodeLatents, EncodeToLatents, Latents, Pixels
from stages.diffusion.pieces import Pieces
from stages.images.image import decoded, fit


@dataclass(frozen=True, slots=True)
class _Vae:
    """The loaded model and what its settings say."""

    model: Loaded
    scaling: LatentScaling
    channels: int
    factor: int
    device: str
    pieces: Pieces


class VaeDecoder:
    """A `OneShotStage[DecodeLatents, NDArray, Pixels]`. Its work unit is one pixel."""

    def __init__(self, vae: _Vae) -> None:
        self._vae = vae

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads the vae only. Raises `ConfigurationError`."""
        vae = _load(checkpoint, options)
        vae.model.call.encoder = vae.model.call.quant_conv = None
        if options.compile:
            vae.model.call.decoder = torch.compile(vae.model.call.decoder, dynamic=True)
        return cls(vae)

    @property
    def device(self) -> str:
        return self._vae.device

    @property
    def result_type(self) -> type[Pixels]:
        return Pixels

    def check(self, payload: DecodeLatents) -> None:
        """Latents are no client's."""

    def weigh(self, payload: DecodeLatents) -> float:
        """Exact."""
        return float(np.prod(np.shape(payload.latents.latents)[1:])) * self._vae.factor**2

    def prepare(self, payload: DecodeLatents, inputs: Inputs) -> NDArray[np.float32]:
        """Raises `StageFailed` for latents of another model."""
        latents, channels = payload.latents.latents, self._vae.channels
        if latents.ndim != 3 or latents.shape[0] != channels:
            raise StageFailed(
                f"the vae wants latents [{channels}, height, width], not {latents.shape}: the denoiser is another model's"
            )
        return latents

    def batch_key(self, item: NDArray[np.float32]) -> Hashable:
        return item.shape

    def cost(self, item: NDArray[np.float32]) -> float:
        return float(item.shape[1] * item.shape[2] * self._vae.factor**2)

    def run(self, batch: Sequence[NDArray[np.float32]]) -> Sequence[Pixels]:
        with torch.inference_mode():
            latents = torch.from_numpy(np.stack(batch)).to(self._vae.model.device, torch.float32)
            pixels = self._vae.pieces.run(latents, 1, self._decode).cpu().numpy()
        return [Pixels(one) for one in pixels]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self._vae.model
        images = vae.call.decode(self._vae.scaling.to_vae(latents).to(vae.dtype), return_dict=False)[0]
        unit = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
        return (unit * 255).round().to(torch.uint8).contiguous()


class VaeEncoder:
    """A `OneShotStage[EncodeToLatents, NDArray, Latents]` for image-to-image. Its work unit is one pixel of the result.

    A vae's answer is a distribution. The result holds its mean and its standard deviation, so that it depends on the pixels
    alone and can be remembered; the denoiser draws from it with the request's own generator, as the library's pipelines do.
    """

    def __init__(self, vae: _Vae) -> None:
        self._vae = vae

    @classmethod
    def load(cls, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Reads the vae only. Raises `ConfigurationError`."""
        vae = _load(checkpoint, options)
        vae.model.call.decoder = vae.model.call.post_quant_conv = None
        if options.compile:
            vae.model.call.encoder = torch.compile(vae.model.call.encoder, dynamic=True)
        return cls(vae)

    @property
    def device(self) -> str:
        return self._vae.device

    @property
    def result_type(self) -> type[Latents]:
        return Latents

    def check(self, payload: EncodeToLatents) -> None:
        """Raises `InvalidRequest` for a size whose sides are not multiples of the model's."""
        width, height, multiple = payload.width, payload.height, self._vae.factor
        if min(height, width) < multiple or height % multiple or width % multiple:
            raise InvalidRequest(f"image {width}x{height}: both sides must be multiples of {multiple}", param="image")

    def weigh(self, payload: EncodeToLatents) -> float:
        """Exact."""
        return float(payload.height * payload.width)

    def prepare(self, payload: EncodeToLatents, inputs: Inputs) -> NDArray[np.uint8]:
        """[height, width, 3]. Raises `InvalidRequest` for what is no image, `TooLarge` for one over `max_pixels`."""
        with decoded(bytes(payload.data), max_pixels=payload.max_pixels, param="image") as image:
            return fit(image, payload.width, payload.height)

    def batch_key(self, item: NDArray[np.uint8]) -> Hashable:
        return item.shape

    def cost(self, item: NDArray[np.uint8]) -> float:
        return float(item.shape[0] * item.shape[1])

    def run(self, batch: Sequence[NDArray[np.uint8]]) -> Sequence[Latents]:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous()
            drawn = self._vae.pieces.run(pixels, self._vae.factor, self._encode).cpu().numpy()
            means, widths = np.split(drawn, 2, axis=1)
        return [Latents(mean.copy(), width.copy()) for mean, width in zip(means, widths, strict=True)]

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Means and standard deviations, one after the other along the channels."""
        vae, scaling = self._vae.model, self._vae.scaling
        unit = pixels.to(vae.device).float() / 255
        drawn = vae.call.encode((2 * unit - 1).to(vae.dtype)).latent_dist
        return torch.cat([scaling.to_denoiser(drawn.mean.float()), scaling.width_to_denoiser(drawn.std.float())], dim=1)


def _load(checkpoint: Checkpoint, options: LoadOptions) -> _Vae:
    folder = open_folder(checkpoint)
    library, class_name = folder.class_of("vae")
    if (library, class_name) != ("diffusers", "AutoencoderKL"):
        raise ConfigurationError(f"{folder.index.path}: vae {class_name} is not supported; supported is AutoencoderKL")
    model = load_model(folder, "vae", replace(options, compile=False))
    settings = folder.settings("vae")
    factor = folder.latent_factor
    pieces = Pieces(model.call, factor, options.device)
    return _Vae(model, latent_scaling(settings), settings.integer("latent_channels"), factor, options.device, pieces)
