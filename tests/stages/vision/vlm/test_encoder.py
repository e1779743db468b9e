"""The seeing part of a vision-language checkpoint, alone."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.blob import Blob
from stages.contract.errors import ConfigurationError
from stages.contract.item import Item
from stages.contract.limits import BatchLimits
from stages.contract.recipe import NO_INPUTS
from stages.engine.one_shot import OneShotEngine
from stages.vision.messages import EncodeImage, VisionFeatures
from stages.vision.vlm.encoder import PreparedImage, VlmEncoder
from stages.vision.vlm.parts import load_seeing_part, load_speaking_part
from tests.stages.fakes import PATIENCE_S, Gate, Inbox
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_llava, save_llava_siglip, save_pixtral, save_qwen2_5_vl
from tests.stages.vision.reading import tensors_read
from tests.stages.vision.tiny_clip import image

pytestmark = pytest.mark.models

SIZES = [(40, 30), (28, 28), (100, 60), (57, 120)]


@pytest.fixture(
    scope="module", params=[save_llava, save_llava_siglip, save_qwen2_5_vl], ids=["llava", "llava_siglip", "qwen2_5_vl"]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    save: Callable[[Path], Path] = request.param
    return save(tmp_path_factory.mktemp("vlm"))


def load(folder: Path) -> VlmEncoder:
    return VlmEncoder.load(resolve(Source(folder=str(folder))), LoadOptions())


def whole_model(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


def test_features_are_the_models_own(folder: Path) -> None:
    from transformers import AutoImageProcessor

    model, processor, encoder = whole_model(folder), AutoImageProcessor.from_pretrained(folder), load(folder)
    for seed, (width, height) in enumerate(SIZES):
        data = image(seed, width, height)
        inputs = processor(images=[Image.open(io.BytesIO(data))], return_tensors="pt")
        with torch.no_grad():
            expected = model.get_image_features(**inputs).pooler_output[0]
        item = encoder.prepare(EncodeImage(data, 100_000), NO_INPUTS)
        result = encoder.run([item])[0]
        np.testing.assert_allclose(result.features, expected.numpy(), atol=1e-4)
        assert encoder.weigh(EncodeImage(data, 100_000)) == encoder.cost(item)
        if "image_grid_thw" in inputs:
            assert result.grid_thw is not None
            assert result.grid_thw.tolist() == inputs["image_grid_thw"][0].tolist()
            assert encoder.cost(item) == inputs["image_grid_thw"].prod()
        else:
            assert encoder.cost(item) == 16


@pytest.mark.parametrize("data", [b"no image", image(0, 1, 300)], ids=["text", "a line"])
def test_what_can_never_be_prepared_weighs_something(folder: Path, data: bytes) -> None:
    encoder = load(folder)
    assert encoder.weigh(EncodeImage(data, 100_000)) >= 1
    assert encoder.result_type is VisionFeatures


class Uncopied(Blob):
    def __bytes__(self) -> bytes:
        raise RuntimeError("it was copied")


def test_an_image_is_weighed_without_copying_it(folder: Path) -> None:
    encoder, data = load(folder), image(0, *SIZES[0])
    weighed = encoder.weigh(EncodeImage(Uncopied(data), 100_000))
    assert weighed == encoder.weigh(EncodeImage(data, 100_000))


def test_images_of_different_sizes_share_a_batch_and_see_the_same(folder: Path) -> None:
    encoder = load(folder)
    items = [encoder.prepare(EncodeImage(image(seed, *size), 100_000), NO_INPUTS) for seed, size in enumerate(SIZES)]
    assert len({encoder.batch_key(item) for item in items}) == 1
    for item, result in zip(items, encoder.run(items), strict=True):
        alone = encoder.run([item])[0]
        np.testing.assert_allclose(result.features, alone.features, atol=1e-4)


def test_each_part_reads_its_own_tensors_only(folder: Path) -> None:
    names = {name for name, _ in whole_model(folder).named_parameters()}
    eyes = {name for name in names if "vision_tower" in name or "visual" in name or "multi_modal_projector" in name}
    assert eyes < names
    with tensors_read() as seen:
        part = load_seeing_part(folder, LoadOptions())
    assert {name for name, _ in part.named_parameters()} == eyes
    assert not any("language_model" in name or "lm_head" in name or "embed_tokens" in name for name in seen)
    with tensors_read() as spoken:
        part = load_speaking_part(folder, LoadOptions())
    assert {name for name, _ in part.named_parameters()} == names - eyes
    assert seen
    assert spoken
    assert not seen & spoken
    assert all(parameter.device.type == "cpu" for parameter in part.parameters())


def test_another_kind_of_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="vision encoder"):
        load(save_decoder("llama", tmp_path))


class Weighed(VlmEncoder):
    """Notes what each batch costs, and holds the first until everyone has come."""

    def hold(self, gate: Gate) -> None:
        self.gate, self.batches = gate, list[list[float]]()

    def run(self, batch: Sequence[PreparedImage]) -> Sequence[VisionFeatures]:
        self.gate.pass_through()
        self.batches.append([self.cost(item) for item in batch])
        return super().run(batch)


def test_a_burst_of_images_is_split_into_batches_within_the_cost_bound(folder: Path) -> None:
    encoder, gate = Weighed.load(resolve(Source(folder=str(folder))), LoadOptions()), Gate(closed=True)
    assert isinstance(encoder, Weighed)
    encoder.hold(gate)
    sizes = [SIZES[index % len(SIZES)] for index in range(12)]
    bound = 2.5 * max(encoder.cost(encoder.prepare(EncodeImage(image(0, *size), 100_000), NO_INPUTS)) for size in SIZES)
    engine: OneShotEngine[EncodeImage, PreparedImage, VisionFeatures] = OneShotEngine(
        encoder, name="eyes", batch=BatchLimits(max_items=64, max_cost=bound)
    )
    inboxes = [Inbox() for _ in sizes]
    for seed, (size, inbox) in enumerate(zip(sizes, inboxes, strict=True)):
        engine.submit(Item(f"{seed}", EncodeImage(image(seed, *size), 100_000)), NO_INPUTS, inbox)
    gate.open()
    assert all(inbox.wait().error is None for inbox in inboxes)
    engine.close(PATIENCE_S)
    assert all(sum(batch) <= bound for batch in encoder.batches)
    assert sum(len(batch) for batch in encoder.batches) == len(sizes)
    assert len(encoder.batches) < len(sizes)


def test_tokens_between_the_features_of_an_image_are_refused_at_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"placeholder tokens and .* features"):
        load(save_pixtral(tmp_path))


def test_a_processor_that_counts_otherwise_than_the_tower_is_refused_at_load(tmp_path: Path) -> None:
    path = save_llava(tmp_path) / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_additional_image_tokens": 0}))
    with pytest.raises(ConfigurationError, match="15 placeholder tokens and 16 features"):
        load(tmp_path)
