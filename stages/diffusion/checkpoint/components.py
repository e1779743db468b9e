"""Loads one component of a diffusers folder, and nothing else of it.

Decides how: safetensors only (never pickled weights), the class that the folder's index names, inference mode, the configured
dtype and device. Knows no model family.
"""

from dataclasses import dataclass
from typing import Any

import torch

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import ConfigurationError
from stages.device.torchvision_shim import ensure_torchvision
from stages.diffusion.checkpoint.checkpoint_parts import DiffusersFolder

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(options: LoadOptions) -> torch.dtype:
    if options.dtype not in _DTYPES:
        raise ConfigurationError(f"dtype: {options.dtype!r} is not one of {', '.join(_DTYPES)}")
    return _DTYPES[options.dtype]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to be called, with what is asked of it at every step: the library looks through all modules for each."""

    call: Any
    config: Any
    device: torch.device
    dtype: torch.dtype


def load_model(folder: DiffusersFolder, component: str, options: LoadOptions) -> Loaded:
    """A component with weights, ready to be called. Raises `ConfigurationError` where its files are missing or don't fit."""
    library, class_name = folder.class_of(component)
    kind = _class(library, class_name)
    dtype = torch_dtype(options)
    try:
        model = kind.from_pretrained(
            folder.path,
            subfolder=component,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=dtype,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder.path / component}: cannot be loaded as {class_name}: {error}") from error
    model = model.to(options.device).eval().requires_grad_(False)
    call = torch.compile(model, dynamic=True) if options.compile else model
    return Loaded(call, model.config, model.device, dtype)


def diffusers_class(class_name: str) -> Any:
    return _class("diffusers", class_name)


def _class(library: str, class_name: str) -> Any:
    ensure_torchvision()
    import diffusers
    import transformers

    modules: dict[str, object] = {"diffusers": diffusers, "transformers": transformers}
    if library not in modules or not hasattr(modules[library], class_name):
        raise ConfigurationError(f"model_index.json: {library}.{class_name} is not a class of diffusers or transformers")
    return getattr(modules[library], class_name)
