"""The kinds of stage that paint, each a part of a diffusers checkpoint. Importing it loads no model library."""

from stages.checkpoints.checkpoint import Checkpoint
from stages.checkpoints.stage_kind import Part, Stage, StageKind
from stages.diffusion.checkpoint.checkpoint_parts import open_folder, part_files

_LOADER = "diffusers"


def _text_encoder(part: Part) -> Stage:
    from stages.diffusion.text_encoder import TextEncoder

    return TextEncoder.load(part.checkpoint, part.options)


def _denoiser(part: Part) -> Stage:
    from stages.diffusion.denoiser import Denoiser

    return Denoiser.load(part.checkpoint, part.options)


def _vae_decoder(part: Part) -> Stage:
    from stages.diffusion.vae import VaeDecoder

    return VaeDecoder.load(part.checkpoint, part.options)


def _vae_encoder(part: Part) -> Stage:
    from stages.diffusion.vae import VaeEncoder

    return VaeEncoder.load(part.checkpoint, part.options)


def _vae_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """A vae says itself whether its activations overflow float16 (`force_upcast`, the library's default)."""
    overflows = dtype == "float16" and open_folder(checkpoint).settings("vae").flag("force_upcast", default=True)
    return "float32" if overflows else dtype


KINDS = (
    StageKind("text_encoder", _LOADER, part_files("text_encoder"), _text_encoder),
    StageKind("denoiser", _LOADER, part_files("denoiser"), _denoiser),
    StageKind("vae_decoder", _LOADER, part_files("vae_decoder"), _vae_decoder, dtype=_vae_dtype),
    StageKind("vae_encoder", _LOADER, part_files("vae_encoder"), _vae_encoder, dtype=_vae_dtype),
)
