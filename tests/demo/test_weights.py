"""The committed weights load through their libraries' ordinary front doors, fit each other, and stay small."""

import hashlib
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from demo.held_out import example
from demo.measuring.detector import describe
from demo.train import WEIGHTS
from demo.world import DESCRIBE
from stages.device.torchvision_shim import ensure_torchvision
from stages.vision.clip.projector import Projector, ProjectorConfig
from stages.vision.clip.tower import LOCAL_PREFIX, WEIGHTS_FILE, OpenClipTower

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def tower() -> OpenClipTower:
    return OpenClipTower(WEIGHTS / "clip")


def test_all_weights_together_are_at_most_40_megabytes() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 40_000_000


def test_every_model_has_a_card_with_its_licence() -> None:
    for part in ("clip", "projector", "painter"):
        assert "Apache-2.0" in (WEIGHTS / part / "README.md").read_text()


def test_weights_are_half_precision_safetensors() -> None:
    for path in WEIGHTS.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= {"F16", "BF16"}  # noqa: SIM118


def test_the_tower_alone_sees_what_the_whole_clip_sees(tower: OpenClipTower) -> None:
    ensure_torchvision()
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"{LOCAL_PREFIX}{WEIGHTS / 'clip'}")
    image = Image.open(io.BytesIO(example().image_png))
    pixels = tower.preprocess(image)
    assert torch.equal(pixels, transform(image))
    with torch.no_grad():
        found = model.eval().visual.forward_intermediates(pixels[None], indices=1, output_fmt="NLC")
        assert torch.allclose(tower.tokens(pixels[None]), found["image_intermediates"][0], atol=1e-4)


def test_a_tower_can_be_made_of_any_open_clip_model() -> None:
    tower = OpenClipTower("ViT-B-32", layer=-2)
    assert tower.tokens(torch.zeros(1, 3, 224, 224)).shape == (1, 49, 768)


def test_an_unknown_tower_is_refused() -> None:
    with pytest.raises(ValueError, match="no-such-model"):
        OpenClipTower("no-such-model")


def test_the_projector_fits_the_tower_it_was_trained_on(tower: OpenClipTower) -> None:
    projector = Projector.load(WEIGHTS / "projector")
    fingerprint = hashlib.sha256((WEIGHTS / "clip" / WEIGHTS_FILE).read_bytes()).hexdigest()
    assert projector.config.clip_fingerprint == fingerprint
    soft = projector(tower.tokens(torch.zeros(2, 3, 64, 64)))
    assert soft.shape == (2, projector.config.num_image_tokens, projector.config.text_width)


def test_a_projector_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    projector = Projector(ProjectorConfig("<image>", 4, 8, 12, 10))
    projector.save(tmp_path, dtype=torch.float32)
    again = Projector.load(tmp_path)
    tokens = torch.randn(1, 4, 8)
    assert again.config == projector.config
    assert torch.equal(again(tokens), projector(tokens))


def test_the_image_stands_right_before_the_question() -> None:
    assert ProjectorConfig("<image>", 3, 8, 12, 10).place_image("What?") == "<image><image><image>What?"


def test_the_painter_is_an_ordinary_stable_diffusion_folder() -> None:
    ensure_torchvision()
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, UniPCMultistepScheduler

    pipeline = DiffusionPipeline.from_pretrained(str(WEIGHTS / "painter"), dtype=torch.float32)
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.set_progress_bar_config(disable=True)
    for scheduler in (pipeline.scheduler, UniPCMultistepScheduler.from_config(pipeline.scheduler.config)):
        pipeline.scheduler = scheduler
        assert scheduler.config.prediction_type == "flow_prediction"
        assert scheduler.config.use_flow_sigmas
        found = pipeline("a red circle", height=64, width=64, num_inference_steps=2, guidance_scale=3.0)
        assert found.images[0].size == (64, 64)


def test_the_example_is_held_out_and_true() -> None:
    shown = example()
    seen = describe(Image.open(io.BytesIO(shown.image_png)))
    assert shown.question == DESCRIBE
    assert seen is not None
    assert seen.canonical() == shown.answer
    assert shown.sentence != shown.answer
    assert shown == example()
