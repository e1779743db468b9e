from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.codec import BFLOAT16
from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import ConfigurationError
from stages.contract.recipe import NO_INPUTS
from stages.diffusion.messages import EncodePrompt, PromptEmbedding
from stages.diffusion.text_encoder import TextEncoder
from tests.stages.diffusion.painter import Oracle, Painter, checkpoint_of

pytestmark = pytest.mark.models

PROMPTS = ["a red circle", "", "blue", "A Red Circle!"]


def test_a_batch_gives_what_the_librarys_pipeline_gives_one_by_one(sd_painter: Painter, sd_oracle: Oracle) -> None:
    for prompt, result in zip(PROMPTS, sd_painter.encode(*PROMPTS), strict=True):
        expected = sd_oracle.pipeline.encode_prompt(prompt, "cpu", 1, do_classifier_free_guidance=False)[0][0]
        assert result.embeds.dtype == np.float32
        np.testing.assert_allclose(result.embeds, expected.detach().numpy(), atol=1e-5)


def test_every_prompt_may_share_a_batch_and_costs_its_padded_length(sd_painter: Painter) -> None:
    stage = sd_painter.text_encoder
    items = [stage.prepare(EncodePrompt(text), NO_INPUTS) for text in PROMPTS]
    assert len({stage.batch_key(item) for item in items}) == 1
    assert {stage.cost(item) for item in items} == {16.0}


def test_a_prompt_is_weighed_by_its_letters_before_it_is_tokenized(sd_painter: Painter) -> None:
    stage = sd_painter.text_encoder
    short, long = (stage.weigh(EncodePrompt("a red circle" * count)) for count in (1, 20))
    assert short == stage.cost(stage.prepare(EncodePrompt("a red circle"), NO_INPUTS)) == 16.0
    assert long == 60.0
    assert stage.weigh(EncodePrompt("", min_positions=48)) == 48.0
    assert stage.result_type is PromptEmbedding


def test_prompts_may_be_prepared_by_many_threads_at_once(sd_painter: Painter) -> None:
    stage = sd_painter.text_encoder
    texts = [f"red {index}" for index in range(200)]
    expected = [stage.prepare(EncodePrompt(text), NO_INPUTS)["ids"] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        prepared = list(pool.map(lambda text: stage.prepare(EncodePrompt(text), NO_INPUTS)["ids"], texts))
    np.testing.assert_array_equal(prepared, expected)


@pytest.mark.cpu
@pytest.mark.parametrize(("dtype", "travels_as"), [("float16", "float16"), ("bfloat16", BFLOAT16)])
def test_results_travel_in_the_dtype_they_were_computed_in(sd_folder: Path, dtype: str, travels_as: Any) -> None:
    stage = TextEncoder.load(checkpoint_of(sd_folder), LoadOptions(dtype=dtype))
    result = stage.run([stage.prepare(EncodePrompt("red"), NO_INPUTS)])[0].embeds
    assert result.dtype == np.dtype(travels_as)


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path, sd_folder: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(sd_folder, tmp_path / "copy"))
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="cannot be loaded as CLIPTextModel"):
        TextEncoder.load(checkpoint_of(folder), LoadOptions())


def test_an_unknown_dtype_is_refused(sd_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="dtype: 'int8' is not one of float32, bfloat16, float16"):
        TextEncoder.load(checkpoint_of(sd_folder), LoadOptions(dtype="int8"))
