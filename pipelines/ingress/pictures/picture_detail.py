"""OpenAI's `detail: "low"` for a picture in a chat: it is seen at 512 x 512 pixels at most. CPU work: keep it off the event
loop."""

from dataclasses import replace

import numpy as np
from PIL import Image

from pipelines.jobs import ImagePart
from stages.pictures.picture import decoded, encode

LOW_DETAIL_SIDE = 512


def low_detail(part: ImagePart, *, max_pixels: int) -> ImagePart:
    """The picture shrunk to fit, as PNG; itself where it fits already. Raises `InvalidRequest` for a file that cannot be
    read."""
    if max(part.width, part.height) <= LOW_DETAIL_SIDE:
        return part
    with decoded(part.data, max_pixels=max_pixels, param=part.param) as image:
        image.thumbnail((LOW_DETAIL_SIDE, LOW_DETAIL_SIDE), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    return replace(part, data=encode(pixels, "png"), width=image.width, height=image.height)
