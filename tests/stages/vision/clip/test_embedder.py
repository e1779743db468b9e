"""Texts and images in one space."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.contract.recipe import NO_INPUTS
from stages.vision.clip.embedder import ClipEmbedder
from stages.vision.messages import Embedding, EmbedInput
from tests.stages.vision.tiny_clip import image as drawn
from tests.stages.vision.tiny_clip import save_clip

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> ClipEmbedder:
    return ClipEmbedder.load(resolve(Source(folder=str(folder))), LoadOptions())


def test_vectors_are_open_clips_own_normalized(embedder: ClipEmbedder, folder: Path) -> None:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    texts = ["a red circle", "two blue stars"]
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
    results = embedder.run([embedder.prepare(EmbedInput(text=text), NO_INPUTS) for text in texts])
    np.testing.assert_allclose(np.stack([result.embedding for result in results]), expected.numpy(), atol=1e-5)


def test_vectors_have_unit_length_and_one_width(embedder: ClipEmbedder) -> None:
    text = embedder.run([embedder.prepare(EmbedInput(text="a star"), NO_INPUTS)])[0].embedding
    image = embedder.run([embedder.prepare(EmbedInput(image=drawn(1), max_pixels=10_000), NO_INPUTS)])[0].embedding
    assert text.shape == image.shape == (24,)
    assert text.dtype == image.dtype == np.float32
    assert [np.linalg.norm(text), np.linalg.norm(image)] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_texts_and_images_never_share_a_batch(embedder: ClipEmbedder) -> None:
    text = embedder.prepare(EmbedInput(text="a star"), NO_INPUTS)
    image = embedder.prepare(EmbedInput(image=drawn(1), max_pixels=10_000), NO_INPUTS)
    assert embedder.batch_key(text) != embedder.batch_key(image)
    assert (embedder.cost(text), embedder.cost(image)) == (12, 16)


def test_an_image_embeds_the_same_alone_and_in_a_batch(embedder: ClipEmbedder) -> None:
    items = [embedder.prepare(EmbedInput(image=drawn(seed), max_pixels=10_000), NO_INPUTS) for seed in range(4)]
    for item, result in zip(items, embedder.run(items), strict=True):
        np.testing.assert_allclose(result.embedding, embedder.run([item])[0].embedding, atol=1e-5)


def test_tokens_and_patches_are_counted(embedder: ClipEmbedder) -> None:
    text = embedder.run([embedder.prepare(EmbedInput(text="a star"), NO_INPUTS)])[0]
    image = embedder.run([embedder.prepare(EmbedInput(image=drawn(1), max_pixels=10_000), NO_INPUTS)])[0]
    assert (int(text.num_tokens), int(image.num_tokens)) == (4, 16)


def test_a_text_over_the_context_is_refused_not_cut(embedder: ClipEmbedder) -> None:
    embedder.prepare(EmbedInput(text="a " * 10), NO_INPUTS)
    with pytest.raises(InvalidRequest, match=r"13 tokens.*12"):
        embedder.prepare(EmbedInput(text="a " * 11), NO_INPUTS)


def test_texts_prepared_on_several_threads_keep_the_models_length() -> None:
    """A tokenizer of transformers pads by a setting that every call switches on and off."""
    embedder = ClipEmbedder.load(resolve(Source(demo="clip")), LoadOptions())
    texts = ["a red circle " * (1 + index % 5) for index in range(2_000)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            prepared = list(threads.map(lambda text: embedder.prepare(EmbedInput(text=text), NO_INPUTS), texts))
    finally:
        sys.setswitchinterval(interval)
    assert {item.token_ids.shape for item in prepared if item.token_ids is not None} == {(32,)}


def test_an_input_is_a_text_or_an_image(embedder: ClipEmbedder) -> None:
    for payload in (EmbedInput(), EmbedInput(text="a star", image=drawn(1), max_pixels=10_000)):
        with pytest.raises(InvalidRequest, match="neither or both") as caught:
            embedder.check(payload)
        assert caught.value.param == "text"


def test_an_input_weighs_what_it_costs(embedder: ClipEmbedder) -> None:
    text, image = EmbedInput(text="a star"), EmbedInput(image=drawn(1), max_pixels=10_000)
    item = embedder.prepare(text, NO_INPUTS)
    assert embedder.weigh(text) == embedder.cost(item)
    assert embedder.weigh(image) == embedder.cost(embedder.prepare(image, NO_INPUTS))
    assert embedder.result_type is Embedding


def test_a_folder_without_a_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="open_clip"):
        ClipEmbedder.load(resolve(Source(folder=str(tmp_path))), LoadOptions())
