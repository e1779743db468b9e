"""A GGUF file is unpacked once, and what is unpacked is what it holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.llm.model import unpacked as module
from stages.llm.model.loading import load_language_model
from stages.llm.model.tokenizer import load_tokenizer
from stages.llm.model.unpacked import unpacked

pytestmark = pytest.mark.models


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with something that looks like a GGUF file, and a cache of its own."""
    monkeypatch.setattr(module, "_home", lambda: tmp_path / "home")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.gguf").write_bytes(b"GGUF")
    return tmp_path / "model"


def write(target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_text("{}")


def test_it_is_written_once_and_leaves_nothing_else(folder: Path) -> None:
    written: list[Path] = []

    def recording(target: Path) -> None:
        written.append(target)
        write(target)

    first, second = unpacked(folder, "x", recording), unpacked(folder, "x", recording)
    assert first == second
    assert first is not None
    assert (first / "config.json").exists()
    assert len(written) == 1
    assert list(first.parent.iterdir()) == [first]


def test_another_file_is_another_folder(folder: Path) -> None:
    first = unpacked(folder, "x", write)
    (folder / "a.gguf").write_bytes(b"GGUF, but another")
    assert unpacked(folder, "x", write) != first


def test_what_was_not_finished_is_not_used(folder: Path) -> None:
    def failing(target: Path) -> None:
        write(target)
        raise ValueError("no such architecture")

    with pytest.raises(ValueError, match="architecture"):
        unpacked(folder, "x", failing)
    found = unpacked(folder, "x", write)
    assert found is not None
    assert list(found.parent.iterdir()) == [found]


def test_who_comes_second_takes_what_the_first_wrote(folder: Path) -> None:
    """Two processes that start together both write; the slower one finds the place taken."""

    def slower(target: Path) -> None:
        unpacked(folder, "x", write)
        write(target)

    found = unpacked(folder, "x", slower)
    assert found is not None
    assert list(found.parent.iterdir()) == [found]


def test_without_a_place_to_keep_it_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").write_text("not a folder")
    monkeypatch.setattr(module, "_home", lambda: folder.parent / "file")
    assert unpacked(folder, "x", write) is None


@pytest.mark.models
@pytest.mark.timeout(900)
def test_unpacked_weights_and_tokens_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, read = resolve(Source(demo="smollm2")), list[Any]()
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def recording(*given: Any, **more: Any) -> Any:
        read.append(from_pretrained(*given, **more))
        return read[-1]

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", recording)
    monkeypatch.setattr(module, "_home", lambda: tmp_path)
    kept = load_language_model(checkpoint, LoadOptions(dtype="bfloat16"), pack=False)
    of_the_file, of_the_copy = read
    assert of_the_copy is kept.model
    assert kept.model.generation_config.eos_token_id == of_the_file.generation_config.eos_token_id
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(module, "_home", lambda: tmp_path / "file")
    tokenizer = load_tokenizer(checkpoint.folder)
    assert kept.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert kept.tokenizer.chat_template == tokenizer.chat_template
    expected = dict(of_the_file.named_parameters())
    for name, parameter in kept.model.named_parameters():
        assert torch.equal(parameter, expected.pop(name))
    assert not expected
