"""The demo's kind of vision encoder: an open_clip tower with a projector."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError, InvalidRequest, TooLarge
from stages.contract.recipe import NO_INPUTS
from stages.device.arrays import as_tensor
from stages.vision.clip.encoder import OpenClipEncoder
from stages.vision.clip.projector import Projector
from stages.vision.clip.tower import WEIGHTS_FILE
from stages.vision.messages import EncodeImage, VisionFeatures
from tests.stages.vision.tiny_clip import image, save_clip, save_projector

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("encoder")
    clip = save_clip(base / "clip")
    return clip, save_projector(base / "projector", clip)


def load(clip: Path, projector: Path, dtype: str = "float32") -> OpenClipEncoder:
    return OpenClipEncoder.load(
        resolve(Source(folder=str(clip))), resolve(Source(folder=str(projector))), LoadOptions(dtype=dtype)
    )


def test_features_are_the_projected_patch_tokens_of_open_clips_own_model(folders: tuple[Path, Path]) -> None:
    import open_clip

    clip, projector = folders
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip}")
    pixels = transform(Image.open(io.BytesIO(image(1))))[None]
    with torch.no_grad():
        tokens = model.eval().visual.forward_intermediates(pixels, indices=[1], intermediates_only=True, output_fmt="NLC")[
            "image_intermediates"
        ][0]
        expected = Projector.load(projector)(tokens)[0]
    encoder = load(clip, projector)
    result = encoder.run([encoder.prepare(EncodeImage(image(1), 10_000), NO_INPUTS)])[0]
    assert result.features.shape == (16, 40)
    np.testing.assert_allclose(result.features, expected.numpy(), atol=1e-5)


def test_an_image_sees_the_same_alone_and_in_a_batch(folders: tuple[Path, Path]) -> None:
    encoder = load(*folders)
    items = [encoder.prepare(EncodeImage(image(seed, 30 + seed, 50), 10_000), NO_INPUTS) for seed in range(5)]
    assert len({encoder.batch_key(item) for item in items}) == 1
    for item, result in zip(items, encoder.run(items), strict=True):
        np.testing.assert_allclose(result.features, encoder.run([item])[0].features, atol=1e-5)
    assert encoder.cost(items[0]) == 16
    assert encoder.weigh(EncodeImage(image(0, 30, 50), 10_000)) == encoder.cost(items[0])
    assert encoder.result_type is VisionFeatures


@pytest.mark.cpu
@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_features_travel_in_the_dtype_they_were_computed_in(
    folders: tuple[Path, Path], dtype: str, torch_dtype: torch.dtype
) -> None:
    encoder = load(*folders, dtype=dtype)
    features = encoder.run([encoder.prepare(EncodeImage(image(1), 10_000), NO_INPUTS)])[0].features
    assert features.nbytes == features.size * torch_dtype.itemsize
    exact = load(*folders).run([load(*folders).prepare(EncodeImage(image(1), 10_000), NO_INPUTS)])[0].features
    np.testing.assert_allclose(as_tensor(features, dtype=torch.float32, device="cpu"), exact, atol=0.1)


@pytest.mark.models
def test_a_compiled_encoder_sees_the_same(folders: tuple[Path, Path]) -> None:
    plain, options = load(*folders), LoadOptions(compile=True)
    checkpoints = [resolve(Source(folder=str(folder))) for folder in folders]
    encoder = OpenClipEncoder.load(checkpoints[0], checkpoints[1], options)
    items = [encoder.prepare(EncodeImage(image(seed), 10_000), NO_INPUTS) for seed in range(3)]
    for result, expected in zip(encoder.run(items), plain.run(items), strict=True):
        np.testing.assert_allclose(result.features, expected.features, atol=1e-4)


def test_what_is_no_image_is_the_requests_fault(folders: tuple[Path, Path]) -> None:
    encoder = load(*folders)
    with pytest.raises(InvalidRequest):
        encoder.prepare(EncodeImage(b"no image", 10_000), NO_INPUTS)
    with pytest.raises(TooLarge):
        encoder.prepare(EncodeImage(image(1), 100), NO_INPUTS)


def test_a_projector_of_another_tower_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clip, projector = folders
    with pytest.raises(ConfigurationError, match="another tower"):
        load(save_clip(tmp_path / "clip", seed=5), projector)
    with pytest.raises(ConfigurationError, match=r"\(16, 50\).*\(16, 48\)"):
        load(clip, save_projector(tmp_path / "wide", clip, vision_width=50))


def test_a_broken_checkpoint_is_a_configuration_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "clip")
    (clip / WEIGHTS_FILE).write_bytes(b"no weights")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        load(clip, folders[1])


def test_the_text_tower_is_not_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """A file without the text half is enough."""
    from safetensors.torch import load_file, save_file

    clip, _ = folders
    seeing = tmp_path / "clip"
    seeing.mkdir()
    (seeing / "open_clip_config.json").write_text((clip / "open_clip_config.json").read_text())
    weights = load_file(clip / WEIGHTS_FILE)
    save_file({name: value for name, value in weights.items() if name.startswith("visual.")}, seeing / WEIGHTS_FILE)
    assert load(seeing, save_projector(tmp_path / "projector", seeing)).device == "cpu"
