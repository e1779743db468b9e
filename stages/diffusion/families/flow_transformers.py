"""Stable Diffusion 3 and Flux: transformers that predict a flow's velocity, told about the prompt by CLIP and T5.

The sources for what is called with what are diffusers' `StableDiffusion3Pipeline` and `FluxPipeline`.
"""

from dataclasses import dataclass

from stages.checkpoints.checkpoint import LoadOptions
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder
from stages.diffusion.families.describe import Guidance, PainterInfo
from stages.diffusion.families.family import Backbone, PromptEncoder, PromptTokens
from stages.diffusion.sampling.samplers import SamplerMenu, Spacing, Timing, menu_of, scheduler_settings
from stages.diffusion.text.prompt_tokenizer import ChunkTokenizer, PromptLength, PromptTokenizer, clip_length
from stages.diffusion.text.prompt_tokens import PooledAndT5Tokens, TripletTokens

_FLUX_PATCH = 2
_FLUX_SAMPLE_SIZE = 128  # latent positions a side; the library's default, in no settings file


class StableDiffusion3:
    """3 and 3.5, with T5 or without."""

    name = "stable_diffusion_3"
    t5_length = PromptLength(256, marks=1)

    def describe(self, folder: DiffusersFolder) -> PainterInfo:
        menu, transformer, factor = self.samplers(folder), folder.settings("transformer"), folder.latent_factor
        patch, turbo = transformer.integer("patch_size"), _is_turbo(folder)
        height, width = transformer.pair("sample_size")
        return PainterInfo(
            family=self.name,
            default_size=(width * factor, height * factor),
            latent_channels=transformer.integer("in_channels"),
            latent_factor=factor,
            size_multiple=factor * patch,
            max_prompt_tokens=self.t5_length.text_tokens if _has_t5(folder) else clip_length(folder).chunked_text_tokens,
            prediction_type=menu.prediction_type,
            samplers=menu.names,
            default_sampler=menu.default.name,
            max_steps=menu.max_steps,
            default_steps=4 if turbo else 28,
            default_guidance_scale=0.0 if turbo else 7.0,
            max_side=transformer.integer("pos_embed_max_size") * patch * factor,
        )

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu:
        settings = scheduler_settings(folder)
        return menu_of(settings, settings.values)

    def spacing(self, folder: DiffusersFolder) -> Spacing:
        unit = folder.latent_factor * folder.settings("transformer").integer("patch_size")
        return _FlowSpacing.of(folder, unit, max_shift=1.16, own_levels=False)

    def load_prompt_tokens(self, folder: DiffusersFolder) -> PromptTokens:
        has_t5, length = _has_t5(folder), clip_length(folder)  # the first tokenizer's length is used for both
        clip = (
            ChunkTokenizer.load(folder, "tokenizer", length, may_cut=has_t5),
            ChunkTokenizer.load(folder, "tokenizer_2", length, may_cut=has_t5),
        )
        t5 = PromptTokenizer.load(folder, "tokenizer_3", self.t5_length) if has_t5 else None
        return TripletTokens(clip, t5, self.t5_length.tokens)

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.text.text_models import TripletPrompts

        names = ("text_encoder", "text_encoder_2", "text_encoder_3")
        first, second = (load_model(folder, name, options) for name in names[:2])
        third = load_model(folder, names[2], options) if _has_t5(folder) else None
        width = folder.settings("transformer").integer("joint_attention_dim")
        return TripletPrompts((first, second, third), (self.t5_length.tokens, width))

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.families.backbones import JointTransformerBackbone

        return JointTransformerBackbone(load_model(folder, "transformer", options))


class Flux:
    """Flux.1, with guidance as an input (dev) or none (schnell)."""

    name = "flux"
    t5_length = PromptLength(512, marks=1)

    def describe(self, folder: DiffusersFolder) -> PainterInfo:
        menu, transformer, factor = self.samplers(folder), folder.settings("transformer"), folder.latent_factor
        guided = transformer.flag("guidance_embeds")
        return PainterInfo(
            family=self.name,
            default_size=(_FLUX_SAMPLE_SIZE * factor, _FLUX_SAMPLE_SIZE * factor),
            latent_channels=transformer.integer("in_channels") // _FLUX_PATCH**2,
            latent_factor=factor,
            size_multiple=factor * _FLUX_PATCH,
            max_prompt_tokens=self.t5_length.text_tokens,
            prediction_type=menu.prediction_type,
            samplers=menu.names,
            default_sampler=menu.default.name,
            max_steps=menu.max_steps,
            default_steps=28 if guided else 4,
            default_guidance_scale=3.5 if guided else 0.0,
            guidance=Guidance.EMBEDDED if guided else Guidance.NONE,
        )

    def samplers(self, folder: DiffusersFolder) -> SamplerMenu:
        settings = scheduler_settings(folder)
        return menu_of(settings, settings.values)

    def spacing(self, folder: DiffusersFolder) -> Spacing:
        return _FlowSpacing.of(folder, folder.latent_factor * _FLUX_PATCH, max_shift=1.15, own_levels=True)

    def load_prompt_tokens(self, folder: DiffusersFolder) -> PromptTokens:
        return PooledAndT5Tokens(
            PromptTokenizer.load(folder, "tokenizer", clip_length(folder), may_cut=True),
            PromptTokenizer.load(folder, "tokenizer_2", self.t5_length),
        )

    def load_prompt_encoder(self, folder: DiffusersFolder, options: LoadOptions) -> PromptEncoder:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.text.text_models import PooledAndT5Prompts

        return PooledAndT5Prompts(load_model(folder, "text_encoder", options), load_model(folder, "text_encoder_2", options))

    def load_backbone(self, folder: DiffusersFolder, options: LoadOptions) -> Backbone:
        from stages.diffusion.checkpoint.components import load_model
        from stages.diffusion.families.backbones import PackedTransformerBackbone

        return PackedTransformerBackbone(load_model(folder, "transformer", options))


@dataclass(frozen=True, slots=True)
class _FlowSpacing:
    """A schedule that leans towards noise for larger images (Stable Diffusion 3, arXiv 2403.03206, section 5.3.2). `unit`:
    pixels along a side for one of the transformer's tokens. `own_levels`: evenly from 1 to 1/steps, before the shift."""

    unit: int
    base_tokens: float
    max_tokens: float
    base_shift: float
    max_shift: float
    own_levels: bool

    @classmethod
    def of(cls, folder: DiffusersFolder, unit: int, *, max_shift: float, own_levels: bool) -> "_FlowSpacing":
        scheduler = scheduler_settings(folder)
        return cls(
            unit,
            scheduler.number("base_image_seq_len", 256),
            scheduler.number("max_image_seq_len", 4096),
            scheduler.number("base_shift", 0.5),
            scheduler.number("max_shift", max_shift),
            own_levels,
        )

    def __call__(self, width: int, height: int, steps: int) -> Timing:
        tokens = (height // self.unit) * (width // self.unit)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        levels = tuple(1 - index * (1 - 1 / steps) / max(1, steps - 1) for index in range(steps)) if self.own_levels else None
        return Timing(levels, self.base_shift + slope * (tokens - self.base_tokens), rounds_strength_up=True)


def _is_turbo(folder: DiffusersFolder) -> bool:
    """Whether it was distilled adversarially (3.5 Large Turbo, arXiv 2403.12015): its settings are those of the model that it was
    distilled from, so only a name tells: the source's, or the one that it was saved under."""
    saved_as = [settings.values.get("_name_or_path") for settings in (folder.index, folder.settings("transformer"))]
    return any("turbo" in str(name).lower() for name in (folder.name, *saved_as))


def _has_t5(folder: DiffusersFolder) -> bool:
    return folder.has("text_encoder_3")
