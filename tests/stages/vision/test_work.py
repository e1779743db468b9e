"""What a pipeline foresees of an image, from settings files alone, is what its stage says that it costs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.jobs import ImagePart, Message
from pipelines.prompts.prompt import PromptBuilder
from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.recipe import NO_INPUTS
from stages.vision.clip.embedder import ClipEmbedder
from stages.vision.clip.encoder import OpenClipEncoder
from stages.vision.messages import EmbedInput, EncodeImage
from stages.vision.vlm.encoder import VlmEncoder
from stages.vision.work import EmbeddingWork
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_qwen2_5_vl
from tests.stages.vision.tiny_clip import image, save_clip, save_projector

pytestmark = pytest.mark.models

SIZES = [(40, 30), (28, 28), (100, 60), (57, 120)]


def num_patches(builder: PromptBuilder, width: int, height: int) -> int:
    part = ImagePart(image(1, width, height), width, height, "messages[0].content[0]")
    (placed,) = builder.build([Message("user", (part,))]).images
    return placed.num_patches


@pytest.mark.parametrize("save", [save_llava, save_llava_siglip, save_qwen2_5_vl])
def test_a_vision_language_models_image_is_foreseen_exactly(save: Callable[[Path], Path], tmp_path: Path) -> None:
    checkpoint = resolve(Source(folder=str(save(tmp_path))))
    builder, encoder = PromptBuilder.load(checkpoint), VlmEncoder.load(checkpoint, LoadOptions())
    for width, height in SIZES:
        payload = EncodeImage(image(1, width, height), 10**6)
        found = num_patches(builder, width, height)
        assert found == encoder.cost(encoder.prepare(payload, NO_INPUTS)) == encoder.weigh(payload)


def test_a_projectors_image_is_foreseen_exactly(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    projector = resolve(Source(folder=str(save_projector(tmp_path / "projector", clip))))
    text = resolve(Source(folder=str(save_decoder("llama", tmp_path / "llama"))))
    encoder = OpenClipEncoder.load(resolve(Source(folder=str(clip))), projector, LoadOptions())
    found = num_patches(PromptBuilder.load(text, projector), 40, 30)
    assert found == encoder.weigh(EncodeImage(image(1), 10**6))


def test_what_is_embedded_is_foreseen_exactly(tmp_path: Path) -> None:
    checkpoint = resolve(Source(folder=str(save_clip(tmp_path))))
    work, embedder = EmbeddingWork.load(checkpoint), ClipEmbedder.load(checkpoint, LoadOptions())
    assert work.text.amount == embedder.weigh(EmbedInput(text="a red circle"))
    assert work.image.amount == embedder.weigh(EmbedInput(image=image(1), max_pixels=10**6))
