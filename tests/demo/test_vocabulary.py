"""The tokenizer covers the world's words and survives any other text."""

from pathlib import Path

import pytest

from demo.vocabulary import MAX_LENGTH, load_tokenizer, save_tokenizer, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path)
    return path


def test_every_word_of_the_world_is_one_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words())


def test_upper_and_lower_case_are_the_same(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer("A Red Circle").input_ids == tokenizer("a red circle").input_ids


@pytest.mark.parametrize("text", ["", "zebra", "Größe 12½", "日本語", "🙂", "a" * 500])
def test_any_text_tokenizes_to_the_models_length(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == MAX_LENGTH
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1


def test_saving_twice_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
