"""What diffusion stages are sent and what they make. Torch-free: pipelines build and read these. Decides nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages.contract.blob import Blob
from stages.contract.message import message
from stages.contract.recipe import Recipe
from stages.contract.result import Result

MAX_GUIDANCE_SCALE = 100.0


@message
@dataclass(frozen=True, slots=True)
class PromptEmbedding(Result):
    """What a denoiser is conditioned on. `embeds`: [positions, width], chunk after chunk; `pooled`: [width], where the family has
    it. In the text encoder's dtype."""

    embeds: NDArray[Any]
    pooled: NDArray[Any] | None = None


@message
@dataclass(frozen=True, slots=True)
class Latents(Result):
    """`latents`: [channels, height, width] float32, in the denoiser's scale. `std`: as large, where a VAE encoder says how sure it
    is of each. `mask`: [1, height, width] float32, where a part of a given image is to be painted: 1 there, else 0."""

    latents: NDArray[np.float32]
    std: NDArray[np.float32] | None = None
    mask: NDArray[np.float32] | None = None


@message
@dataclass(frozen=True, slots=True)
class Pixels(Result):
    """`pixels`: [height, width, 3] uint8, RGB."""

    pixels: NDArray[np.uint8]


@message
@dataclass(frozen=True, slots=True)
class EncodePrompt:
    """For a diffusion text encoder, which makes a `PromptEmbedding`. `min_positions`: of "embeds", filled up with the empty text's,
    for what shares a forward pass with a longer prompt."""

    makes: ClassVar[type[Result]] = PromptEmbedding
    text: str
    min_positions: int = 0

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


@message
@dataclass(frozen=True, slots=True)
class EncodeToLatents:
    """For a VAE encoder, which makes `Latents`: an encoded image (as `stages/images/image.py` accepts it), scaled to cover
    `width` x `height` and cut about its middle. `mask`: an image as large as it, transparent where it is to be painted (None: all of it
    is)."""

    makes: ClassVar[type[Result]] = Latents
    data: bytes | Blob
    width: int
    height: int
    max_pixels: int
    mask: bytes | Blob | None = None

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


@message
@dataclass(frozen=True, slots=True)
class Original:
    """What of a painting stays as it was, to the pixel: a given image, where its mask is opaque. Both as `EncodeToLatents` has them."""

    data: bytes | Blob
    mask: bytes | Blob
    max_pixels: int


@message
@dataclass(frozen=True, slots=True)
class DecodeLatents:
    """For a VAE decoder, which makes `Pixels`: latents as the denoiser gives them. `original`: what is put over them (None: nothing)."""

    makes: ClassVar[type[Result]] = Pixels
    latents: Latents
    original: Original | None = None

    def needs(self) -> Sequence[Recipe[Any]]:
        return ()


@message
@dataclass(frozen=True, slots=True)
class Denoise:
    """For a denoiser. `negative` None: no classifier-free guidance (one row instead of two). `sampler` None: the checkpoint's own.
    `preview_steps`: after which steps (1-based) an estimate of the finished latents is wanted. `init` with `strength` (0-1]:
    start from these latents (image-to-image). `masked`: only where their mask says; elsewhere the latents stay the given ones, noised as
    each step has it (inpainting). `keep_steps`: after which steps the painting's state is to be remembered, so that who
    asks for the same again goes on from there; after the last one, it is done at once. What is remembered for one `salt` serves no
    other. `trunk`: what the first `trunk_steps` follow in place of `prompt`; as long as it. Paintings that differ in `prompt` alone
    share those steps."""

    prompt: Recipe[PromptEmbedding]
    negative: Recipe[PromptEmbedding] | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    sampler: str | None = None
    preview_steps: tuple[int, ...] = ()
    init: Recipe[Latents] | None = None
    strength: float = 1.0
    masked: bool = False
    keep_steps: tuple[int, ...] = ()
    salt: str = field(default="", repr=False)
    trunk: Recipe[PromptEmbedding] | None = None
    trunk_steps: int = 0

    def needs(self) -> Sequence[Recipe[Any]]:
        return tuple(recipe for recipe in (self.prompt, self.negative, self.trunk, self.init) if recipe is not None)


@message
@dataclass(frozen=True, slots=True)
class DenoiseProgress:
    """From a denoiser after every step (1-based)."""

    step: int
    total: int


@message
@dataclass(frozen=True, slots=True)
class DenoisePreview:
    """From a denoiser: its estimate of the finished latents, to be shown through the VAE decoder."""

    step: int
    latents: Latents


@message
@dataclass(frozen=True, slots=True)
class DenoiseEnd:
    """From a denoiser, last."""

    latents: Latents
