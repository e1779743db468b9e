"""How many placeholder tokens a `transformers` processor writes for a picture, and whether the tower gives as many features.

Knows no weights, no prompts and no requests. Imports no torch.
"""

from functools import lru_cache
from typing import Any

from PIL import Image

from stages.contract.errors import ConfigurationError


def num_image_tokens(processor: Any, height: int, width: int) -> int:
    """For a picture of that many pixels. Milliseconds of CPU work at most."""
    try:
        # What a processor tells inference engines, for sizes alone (vLLM's transformers backend asks the same).
        found = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
    except (TypeError, AttributeError, KeyError):  # LLaVA's can't where pictures aren't cropped, as for a SigLIP tower
        return _counted(processor, *_equivalent_size(processor.image_processor, height, width))
    return int(found["num_image_tokens"][0])


def _equivalent_size(image_processor: Any, height: int, width: int) -> tuple[int, int]:
    """Of a picture that has as many tokens, in pixels: where every picture is brought to one size, that size, however large a
    picture the client sent."""
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
    """Raises `ConfigurationError` where the features of a picture don't fit its placeholders one to one."""
    num_tokens = num_image_tokens(processor, height, width)
    if num_tokens != num_features:
        raise ConfigurationError(
            f"a picture of {width} x {height} pixels has {num_tokens} placeholder tokens and {num_features} features; models that "
            "set other tokens between a picture's features (Pixtral), or crop it by their own rules, are not served"
        )
