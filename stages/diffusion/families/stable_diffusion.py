"""Stable Diffusion 1.x, 2.x and XL: CLIP text encoders, a `UNet2DConditionModel`, classifier-free guidance.

The sources for what is called with what are diffusers' `StableDiffusionPipeline` and `StableDiffusionXLPipeline`.
"""

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import ConfigurationError
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder
from stages.diffusion.families.describe import Guidance, PainterInfo
from stages.diffusion.families.family import Backbone, PromptEncoder, PromptTokens
from stages.diffusion.sampling.samplers import SamplerMenu, Spacing, Timing, menu_of, scheduler_settings
from stages.diffusion.text.prompt_tokenizer import ChunkTokenizer, PromptLength, clip_length
from stages.diffusion.text.prompt_tokens import ClipPairTokens, ClipTokens


class StableDiffusion:
    """1.x and 2.x."""

    name = "stable_diffusion"

    def describe(self, folder: DiffusersFolder) -> PainterInfo:
        return describe_unet(
            self.name, folder, self.samplers(folder), clip_length(folder).chunked_text_tokens, guidance_scale=7.5
        )

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu:
        settings = scheduler_settings(folder)
        # The library's pipeline corrects old scheduler configs in just this way.
        return menu_of(settings, dict(settings.values) | {"clip_sample": False, "steps_offset": 1})

    def spacing(self, folder: DiffusersFolder) -> Spacing:
        return _as_the_scheduler_does

    def load_prompt_tokens(self, folder: DiffusersFolder) -> PromptTokens:
        return ClipTokens(ChunkTokenizer.load(folder, "tokenizer", clip_length(folder)))

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.text.text_models import ClipPrompts

        return ClipPrompts(load_model(folder, "text_encoder", options))

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.families.backbones import UNetBackbone

        unet_channels(folder)
        return UNetBackbone(load_model(folder, "unet", options))


class StableDiffusionXL:
    """The base model."""

    name = "stable_diffusion_xl"

    def describe(self, folder: DiffusersFolder) -> PainterInfo:
        tokens = min(length.chunked_text_tokens for length in (clip_length(folder), _second_length(folder)))
        return describe_unet(self.name, folder, self.samplers(folder), tokens, guidance_scale=5.0)

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu:
        settings = scheduler_settings(folder)
        return menu_of(settings, settings.values)

    def spacing(self, folder: DiffusersFolder) -> Spacing:
        return _as_the_scheduler_does

    def load_prompt_tokens(self, folder: DiffusersFolder) -> PromptTokens:
        tokenizers = (
            ChunkTokenizer.load(folder, "tokenizer", clip_length(folder)),
            ChunkTokenizer.load(folder, "tokenizer_2", _second_length(folder)),
        )
        empty_is_zeros = folder.index.flag("force_zeros_for_empty_prompt", default=True)
        return ClipPairTokens(tokenizers, empty_is_zeros=empty_is_zeros)

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.text.text_models import ClipPairPrompts

        return ClipPairPrompts((load_model(folder, "text_encoder", options), load_model(folder, "text_encoder_2", options)))

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.families.backbones import SizedUNetBackbone

        unet_channels(folder)
        return SizedUNetBackbone(load_model(folder, "unet", options))


def describe_unet(
    name: str, folder: DiffusersFolder, menu: SamplerMenu, max_prompt_tokens: int, *, guidance_scale: float
) -> PainterInfo:
    """`guidance_scale`: the library's default for checkpoints that are not distilled."""
    unet, factor = folder.settings("unet"), folder.latent_factor
    height, width = unet.pair("sample_size")
    steps, guidance_scale = _usual(menu, guidance_scale, embedded=unet.has("time_cond_proj_dim"))
    return PainterInfo(
        family=name,
        default_size=(width * factor, height * factor),
        latent_channels=unet_channels(folder),
        latent_factor=factor,
        size_multiple=factor,
        max_prompt_tokens=max_prompt_tokens,
        prediction_type=menu.prediction_type,
        samplers=menu.names,
        default_sampler=menu.default.name,
        max_steps=menu.max_steps,
        default_steps=min(steps, menu.max_steps),
        default_guidance_scale=guidance_scale,
        guidance=Guidance.EMBEDDED if unet.has("time_cond_proj_dim") else Guidance.CLASSIFIER_FREE,
    )


def _usual(menu: SamplerMenu, guidance_scale: float, *, embedded: bool) -> tuple[int, float]:
    """Steps and guidance scale. Latent consistency models (arXiv 2310.04378) come with their own scheduler. Of models distilled
    adversarially (Turbo, Lightning; arXiv 2311.17042) nothing but the trailing timesteps tells, which models of zero terminal
    signal have as well.
    """
    if menu.default.distilled:
        return 4, 8.5 if embedded else 1.0
    trailing = menu.config.get("timestep_spacing") == "trailing" and not menu.config.get("rescale_betas_zero_snr")
    return (4, 0.0) if trailing and menu.prediction_type == "epsilon" else (30, guidance_scale)


def unet_channels(folder: DiffusersFolder) -> int:
    """Channels of the latents. Raises `ConfigurationError` where the unet wants more (inpainting, instructions)."""
    wanted, given = folder.settings("unet").integer("in_channels"), folder.settings("vae").integer("latent_channels")
    if wanted != given:
        raise ConfigurationError(
            f"{folder.path}: the unet takes {wanted} channels and the vae has {given}: inpainting and instruction checkpoints "
            "are not supported"
        )
    return wanted


def _as_the_scheduler_does(width: int, height: int, steps: int) -> Timing:
    return Timing()


def _second_length(folder: DiffusersFolder) -> PromptLength:
    return clip_length(folder, "tokenizer_2", "text_encoder_2")
