"""The forms a language model comes in."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stages.checkpoints.checkpoint import Checkpoint, LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError
from stages.llm.model.loading import load_language_model
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.llm.tiny_vlms import save_llava

pytestmark = [pytest.mark.models, pytest.mark.cpu]


def checkpoint(folder: Path) -> Checkpoint:
    return resolve(Source(folder=str(folder)))


def test_weights_have_the_asked_for_type(tmp_path: Path) -> None:
    loaded = load_language_model(checkpoint(save_decoder("llama", tmp_path)), LoadOptions(dtype="bfloat16"))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.eos_tokens == {2}


def test_of_a_vision_language_model_only_the_language_is_loaded(tmp_path: Path) -> None:
    loaded = load_language_model(checkpoint(save_llava(tmp_path)), LoadOptions())
    assert not [name for name, _ in loaded.model.named_parameters() if "vision" in name or "projector" in name]


def test_stop_tokens_are_the_generation_configurations_or_else_the_tokenizers(tmp_path: Path) -> None:
    folder = save_decoder("llama", tmp_path)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [2, 5]}))
    assert load_language_model(checkpoint(folder), LoadOptions()).eos_tokens == {2, 5}


def test_layers_that_slots_cannot_hold_are_refused(tmp_path: Path) -> None:
    folder = save_decoder("mamba", tmp_path, state_size=4, num_hidden_layers=1, expand=1)
    with pytest.raises(ConfigurationError, match="slots"):
        load_language_model(checkpoint(folder), LoadOptions())


def test_a_folder_without_a_model_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load_language_model(checkpoint(tmp_path), LoadOptions())


def test_two_gguf_files_are_one_too_many(tmp_path: Path) -> None:
    source = resolve(Source(demo="smollm2")).folder
    found = next(source.glob("*.gguf"))
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).symlink_to(found)
    with pytest.raises(ConfigurationError, match=r"a\.gguf, b\.gguf"):
        load_language_model(checkpoint(tmp_path), LoadOptions())


def test_weights_that_are_broken_are_a_configuration_error(tmp_path: Path) -> None:
    folder = save_decoder("llama", tmp_path)
    shutil.copy(folder / "config.json", folder / "model.safetensors")
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        load_language_model(checkpoint(folder), LoadOptions())
