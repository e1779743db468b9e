"""How many placeholder tokens a `transformers` processor writes for an image, and whether the tower gives as many features.

Knows no weights, no prompts and no requests. Imports no torch.
"""

from functools import lru_cache
from typing import Any

from PIL import Image

from stages.contract.errors import ConfigurationError


def num_image_tokens(processor: Any, height: int, width: int) -> int:
    """For an image of that many pixels. Milliseconds of CPU work at most."""
    try:
        # What a processor tells inference engines, for sizes alone (vLLM's transformers backend asks the same).
        found = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
    except (TypeError, AttributeError, KeyError):  # LLaVA's can't where images aren't cropped, as for a SigLIP tower
        return _counted(processor, *_equivalent_size(processor.image_processor, height, width))
    return int(found["num_image_tokens"][0])


def _equivalent_size(image_processor: Any, height: int, width: int) -> tuple[int, int]:
    """Of an image that has as many tokens, in pixels: where every image is brought to one size, that size, however large a
    image the client sent."""
    size = image_processor.size or {}
    fixed_height, fixed_width = size.get("height"), size.get("width")
    if not image_processor.do_resize or fixed_height is None or fixed_width is None:
        return height, width
    return int(fixed_height), int(fixed_width)


@lru_cache(maxsize=1024)
def _counted(processor: Any, height: int, width: int) -> int:
    found = processor(images=[Image.new("RGB", (width, height))], text=[processor.image_token])
    return sum(token == processor.image_token_id for token in found["input_ids"][0])


def check_num_features(processor: Any, height: int, width: int, num_features: int) -> None:
    """Raises `ConfigurationError` where the features of an image don't fit its placeholders one to one."""
    num_tokens = num_image_tokens(processor, height, width)
    if num_tokens != num_features:
        raise ConfigurationError(
            f"an image of {width} x {height} pixels has {num_tokens} placeholder tokens and {num_features} features; models that "
            "set other tokens between an image's features (Pixtral), or crop it by their own rules, are not served"
        )


def num_image_patches(processor: Any, patch_size: int, height: int, width: int) -> int:
    """Of an image of that many pixels, as the tower sees it: a processor's own count where it keeps an image's proportions, else by the
    one size that every image is brought to."""
    images = processor.image_processor
    if hasattr(images, "get_number_of_image_patches"):
        return int(images.get_number_of_image_patches(height, width))
    size = (getattr(images, "crop_size", None) if getattr(images, "do_center_crop", False) else None) or images.size or {}
    side = size.get("shortest_edge")
    height, width = int(size.get("height") or side or height), int(size.get("width") or side or width)
    return (height // patch_size) * (width // patch_size)
