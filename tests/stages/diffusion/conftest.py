from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.stages.diffusion.painter import Oracle, Painter, oracle_of
from tests.stages.diffusion.tiny import save_stable_diffusion


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("stable-diffusion"))


@pytest.fixture(scope="session")
def sd_painter(sd_folder: Path) -> Painter:
    return Painter.load(sd_folder)


@pytest.fixture(scope="session")
def sd_oracle(sd_folder: Path) -> Oracle:
    return oracle_of(sd_folder)
