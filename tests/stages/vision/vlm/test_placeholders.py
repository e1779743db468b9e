"""How many tokens an image will have, told without making an image as large as the client's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.vlm.placeholders import num_image_tokens
from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_qwen2_5_vl

pytestmark = pytest.mark.models

SIZES = [(1, 1), (28, 28), (30, 40), (57, 120), (400, 300), (3, 500)]


class Watched:
    """A processor that notes how large the images are that it is given."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.sizes: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: list[Image.Image], **more: Any) -> Any:
        self.sizes += [image.size for image in images]
        return self._inner(images=images, **more)


def processor_of(save: Callable[[Path], Path], folder: Path) -> Watched:
    ensure_torchvision()
    from transformers import AutoProcessor

    return Watched(AutoProcessor.from_pretrained(save(folder)))


@pytest.mark.parametrize("save", [save_llava, save_llava_siglip, save_qwen2_5_vl])
def test_as_many_as_the_processor_writes_for_an_image_of_that_size(save: Callable[[Path], Path], tmp_path: Path) -> None:
    processor = processor_of(save, tmp_path)
    for height, width in SIZES:
        if max(height, width) > 199 * min(height, width):
            continue
        written = processor(images=[Image.new("RGB", (width, height))], text=[processor.image_token])["input_ids"][0]
        assert num_image_tokens(processor, height, width) == written.count(processor.image_token_id)


@pytest.mark.parametrize("save", [save_llava, save_llava_siglip, save_qwen2_5_vl])
def test_no_image_larger_than_the_models_own_is_made(save: Callable[[Path], Path], tmp_path: Path) -> None:
    processor = processor_of(save, tmp_path)
    for side in (9_000, 10_000, 11_000):
        assert num_image_tokens(processor, side, side - 1) > 0
    assert set(processor.sizes) <= {(28, 28)}
    assert len(processor.sizes) <= 1
