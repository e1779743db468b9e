"""One thread for every test of the LLM, and a tiny checkpoint for each module of them."""

from pathlib import Path

import pytest
import torch

from tests.stages.llm.tiny_models import save_decoder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder("llama", tmp_path_factory.mktemp("llama"))
