from pathlib import Path

import pytest

from tests.stages.diffusion.tiny import save_stable_diffusion
from tests.stages.llm.tiny_models import save_decoder
from tests.stages.remembering.kinds import Models, load_models


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder: Path = tmp_path_factory.mktemp("models")
    return load_models(save_decoder("llama", folder / "llm"), save_stable_diffusion(folder / "painter"))
