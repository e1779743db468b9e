"""Loads the part of a `transformers` vision-language checkpoint that sees, or the one that speaks. Which modules those are is
`files.py`.

A part is the model's own class with the other part's modules taken out before any weight is read: `from_pretrained` builds
on the meta device, so what is taken out is never allocated and its tensors are never read from the files. Names of old
checkpoints, shards, tied weights and dtypes are handled by the library, as for the whole model.
"""

from pathlib import Path
from typing import Any

import torch

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import ConfigurationError
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.vlm.files import VLM_PARTS
from stages.vision.vlm.shards import is_of, only_shards


def load_speaking_part(folder: Path, options: LoadOptions) -> Any:
    """The model without its eyes: embeddings, decoder, head. Takes `inputs_embeds` with the images' features in their
    places."""
    return _load(folder, options, seeing=False)


def load_seeing_part(folder: Path, options: LoadOptions) -> Any:
    """The model without its language: `get_image_features` works, nothing else does."""
    return _load(folder, options, seeing=True)


def pretrained_arguments(options: LoadOptions) -> dict[str, Any]:
    """`from_pretrained`'s arguments for a dtype and a device, without a second copy of the weights on the way to the
    device."""
    arguments: dict[str, Any] = {"dtype": getattr(torch, options.dtype)}
    return arguments if options.device == "cpu" else {**arguments, "device_map": {"": options.device}}


def _load(folder: Path, options: LoadOptions, *, seeing: bool) -> Any:
    ensure_torchvision()
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    parts = VLM_PARTS.get(config.model_type)
    if parts is None:
        raise ConfigurationError(
            f"{folder} is a {config.model_type!r} model; of these, parts can be loaded: {', '.join(VLM_PARTS)}"
        )
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    part = _part_class(whole, parts.speaking if seeing else parts.seeing, without_head=seeing)
    with only_shards(folder, lambda tensor: is_of(tensor, parts.seeing) == seeing) as readable:
        model = part.from_pretrained(
            str(readable), trust_remote_code=False, weights_only=True, **pretrained_arguments(options)
        )
        return model.eval()


def _part_class(whole: Any, dropped: tuple[str, ...], *, without_head: bool) -> Any:
    """A subclass of `whole` whose instances lack `dropped`. It keeps the name and module by which the library knows the
    class."""

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        whole.__init__(self, config, *args, **kwargs)
        for name in dropped:
            delattr(self.model, name)
        if without_head:
            del self.lm_head

    ignored = [rf"(^|\.){name}\." for name in dropped] + ([r"(^|\.)lm_head\."] if without_head else [])
    body: dict[str, Any] = {"__init__": build, "__module__": whole.__module__, "_keys_to_ignore_on_load_unexpected": ignored}
    if without_head:
        body |= {"_tied_weights_keys": {}, "get_input_embeddings": _no_embeddings, "get_output_embeddings": _no_embeddings}
    return type(whole.__name__, (whole,), body)


def _no_embeddings(_: Any) -> None:
    return None
