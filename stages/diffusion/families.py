"""Which family serves a checkpoint, by the pipeline class that its index names."""

from stages.diffusion.checkpoint_parts import DiffusersFolder
from stages.diffusion.family import Family
from stages.diffusion.flow_transformers import Flux, StableDiffusion3
from stages.diffusion.stable_diffusion import StableDiffusion, StableDiffusionXL
from stages.errors import ConfigurationError

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
