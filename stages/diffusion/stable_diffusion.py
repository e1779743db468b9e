"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a `UNet2DConditionModel`, classifier-free guidance.

The source for what is called with what is diffusers' `StableDiffusionPipeline`.
"""

from stages.checkpoint import LoadOptions
from stages.diffusion.checkpoint_parts import DiffusersFolder
from stages.diffusion.clip_text import ClipTokenizer, clip_prompt_tokens
from stages.diffusion.describe import PainterInfo
from stages.diffusion.family import Backbone, PromptEncoder
from stages.diffusion.samplers import SamplerMenu, Timing, menu_of
from stages.errors import ConfigurationError


class StableDiffusion:
    """The family."""

    name = "stable_diffusion"

    def describe(self, folder: DiffusersFolder) -> PainterInfo:
        menu, unet = self.samplers(folder), folder.settings("unet")
        factor, channels = latent_factor(folder), unet_channels(folder)
        height, width = unet.pair("sample_size")
        return PainterInfo(
            family=self.name,
            default_size=(width * factor, height * factor),
            latent_channels=channels,
            latent_factor=factor,
            size_multiple=factor,
            max_prompt_tokens=clip_prompt_tokens(folder, "tokenizer", "text_encoder"),
            prediction_type=menu.prediction_type,
            samplers=menu.names,
            default_sampler=menu.default.name,
            max_steps=menu.max_steps,
        )

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu:
        scheduler = folder.settings("scheduler", "scheduler_config.json")
        # The library's pipeline corrects old scheduler configs in just this way.
        return menu_of(scheduler, dict(scheduler.values) | {"clip_sample": False, "steps_offset": 1})

    def timing(self, folder: DiffusersFolder, width: int, height: int, steps: int) -> Timing:
        return Timing()

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder:
        from stages.diffusion.clip_encoder import ClipPromptEncoder
        from stages.diffusion.components import load_model

        tokenizer = ClipTokenizer.load(folder, "tokenizer", "text_encoder")
        return ClipPromptEncoder(tokenizer, load_model(folder, "text_encoder", options))

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone:
        from stages.diffusion.components import load_model
        from stages.diffusion.unet import UNetBackbone

        unet_channels(folder)
        return UNetBackbone(load_model(folder, "unet", options))


def latent_factor(folder: DiffusersFolder) -> int:
    """Pixels along a side for one latent position."""
    return 1 << (folder.settings("vae").count("block_out_channels") - 1)


def unet_channels(folder: DiffusersFolder) -> int:
    """Channels of the latents. Raises `ConfigurationError` where the unet wants more (inpainting, instructions)."""
    wanted, given = folder.settings("unet").integer("in_channels"), folder.settings("vae").integer("latent_channels")
    if wanted != given:
        raise ConfigurationError(
            f"{folder.path}: the unet takes {wanted} channels and the vae has {given}: inpainting and instruction checkpoints "
            "are not supported"
        )
    return wanted
