"""The stages at the pixels' end: latents to pixels, and (for image-to-image) pixels to latents.

Decides scaling and rounding, both as the library's pipelines and its image processor do, and that what a mask keeps of a given image
stays as it was. Knows no prompts and no noise. Each
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
from stages.images.mask import by_cells, painted


@dataclass(frozen=True, slots=True)
class _Vae:
    """The loaded model and what its settings say."""

    model: Loaded
    scaling: LatentScaling
    channels: int
    factor: int
    device: str
    pieces: Pieces


@dataclass(frozen=True, slots=True)
class PreparedLatents:
    """`latents`: [channels, height, width]. `original`: [height, width, 3] uint8 pixels, which stay where `is_painted` [height, width] is
    false; both None: none do."""

    latents: NDArray[np.float32]
    original: NDArray[np.uint8] | None = None
    is_painted: NDArray[np.bool_] | None = None

    def over(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.original is None or self.is_painted is None:
            return pixels
        return np.where(self.is_painted[..., None], pixels, self.original)


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """`pixels`: [height, width, 3] uint8. `mask`: as `Latents` has it."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.float32] | None = None


class VaeDecoder:
    """A `OneShotStage[DecodeLatents, PreparedLatents, Pixels]`. Its work unit is one pixel."""

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

    def prepare(self, payload: DecodeLatents, inputs: Inputs) -> PreparedLatents:
        """Raises `StageFailed` for latents of another model, and for an original what `VaeEncoder.prepare` does."""
        latents, channels = payload.latents.latents, self._vae.channels
        if latents.ndim != 3 or latents.shape[0] != channels:
            raise StageFailed(
                f"the vae wants latents [{channels}, height, width], not {latents.shape}: the denoiser is another model's"
            )
        if payload.original is None:
            return PreparedLatents(latents)
        height, width = (side * self._vae.factor for side in latents.shape[1:])
        image, mask, most = bytes(payload.original.data), bytes(payload.original.mask), payload.original.max_pixels
        return PreparedLatents(
            latents,
            _fitted(image, width, height, max_pixels=most),
            painted(mask, width, height, max_pixels=most, param="mask"),
        )

    def batch_key(self, item: PreparedLatents) -> Hashable:
        return item.latents.shape

    def cost(self, item: PreparedLatents) -> float:
        return float(item.latents.shape[1] * item.latents.shape[2] * self._vae.factor**2)

    def run(self, batch: Sequence[PreparedLatents]) -> Sequence[Pixels]:
        with torch.inference_mode():
            latents = torch.from_numpy(np.stack([item.latents for item in batch])).to(self._vae.model.device, torch.float32)
            pixels = self._vae.pieces.run(latents, 1, self._decode).cpu().numpy()
        return [Pixels(item.over(one)) for item, one in zip(batch, pixels, strict=True)]

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self._vae.model
        images = vae.call.decode(self._vae.scaling.to_vae(latents).to(vae.dtype), return_dict=False)[0]
        unit = (images * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
        return (unit * 255).round().to(torch.uint8).contiguous()


class VaeEncoder:
    """A `OneShotStage[EncodeToLatents, PreparedImage, Latents]` for image-to-image. Its work unit is one pixel of the result.

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

    def prepare(self, payload: EncodeToLatents, inputs: Inputs) -> PreparedImage:
        """Raises `InvalidRequest` for what is no image, or no mask, `TooLarge` for one over `max_pixels`."""
        width, height, most = payload.width, payload.height, payload.max_pixels
        pixels = _fitted(bytes(payload.data), width, height, max_pixels=most)
        if payload.mask is None:
            return PreparedImage(pixels)
        is_painted = painted(bytes(payload.mask), width, height, max_pixels=most, param="mask")
        return PreparedImage(pixels, by_cells(is_painted, self._vae.factor))

    def batch_key(self, item: PreparedImage) -> Hashable:
        return item.pixels.shape

    def cost(self, item: PreparedImage) -> float:
        return float(item.pixels.shape[0] * item.pixels.shape[1])

    def run(self, batch: Sequence[PreparedImage]) -> Sequence[Latents]:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([item.pixels for item in batch])).permute(0, 3, 1, 2).contiguous()
            drawn = self._vae.pieces.run(pixels, self._vae.factor, self._encode).cpu().numpy()
            means, widths = np.split(drawn, 2, axis=1)
        drawn_of = zip(batch, means, widths, strict=True)
        return [Latents(mean.copy(), width.copy(), item.mask) for item, mean, width in drawn_of]

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Means and standard deviations, one after the other along the channels."""
        vae, scaling = self._vae.model, self._vae.scaling
        unit = pixels.to(vae.device).float() / 255
        drawn = vae.call.encode((2 * unit - 1).to(vae.dtype)).latent_dist
        return torch.cat([scaling.to_denoiser(drawn.mean.float()), scaling.width_to_denoiser(drawn.std.float())], dim=1)


def _fitted(data: bytes, width: int, height: int, *, max_pixels: int) -> NDArray[np.uint8]:
    with decoded(data, max_pixels=max_pixels, param="image") as image:
        return fit(image, width, height)


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
