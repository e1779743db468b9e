"""Which family serves a checkpoint, by the pipeline class that its index names."""

from stages.checkpoints.checkpoint import Checkpoint
from stages.contract.errors import ConfigurationError
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder, open_folder
from stages.diffusion.families.describe import PainterInfo
from stages.diffusion.families.family import Family
from stages.diffusion.families.flow_transformers import Flux, StableDiffusion3
from stages.diffusion.families.stable_diffusion import StableDiffusion, StableDiffusionXL

_IMAGE_TO_IMAGE = "Img2Img"  # the same components under another entry point


def family_of(folder: DiffusersFolder) -> Family:
    """Raises `ConfigurationError` for a pipeline class that is not served."""
    families: dict[str, Family] = {
        "StableDiffusionPipeline": StableDiffusion(),
        "StableDiffusionXLPipeline": StableDiffusionXL(),
        "StableDiffusion3Pipeline": StableDiffusion3(),
        "FluxPipeline": Flux(),
    }
    name = folder.pipeline_class.replace(_IMAGE_TO_IMAGE, "")
    if name not in families:
        raise ConfigurationError(
            f"{folder.index.path}: {folder.pipeline_class} is not supported; supported are {', '.join(families)}"
        )
    return families[name]


def describe(checkpoint: Checkpoint) -> PainterInfo:
    """Raises `ConfigurationError` where the checkpoint is no diffusers folder of a family that is served."""
    folder = open_folder(checkpoint)
    return family_of(folder).describe(folder)
