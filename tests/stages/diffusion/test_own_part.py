"""A stage reads its own part of a checkpoint: the others' weights may be on no disk of its machine."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.checkpoints.checkpoint import LoadOptions
from stages.contract.errors import ConfigurationError
from stages.diffusion.denoiser import Denoiser
from stages.diffusion.text_encoder import TextEncoder
from stages.diffusion.vae import VaeDecoder, VaeEncoder
from tests.stages.diffusion.painter import checkpoint_of

pytestmark = pytest.mark.models

OWN = {TextEncoder: "text_encoder", Denoiser: "unet", VaeDecoder: "vae", VaeEncoder: "vae"}


@pytest.fixture
def copy(sd_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


@pytest.mark.parametrize("kind", list(OWN))
def test_it_loads_without_the_weights_of_others(copy: Path, kind: Any) -> None:
    for weights in copy.rglob("*.safetensors"):
        if weights.parent.name != OWN[kind]:
            weights.unlink()
    assert kind.load(checkpoint_of(copy), LoadOptions()).device == "cpu"


@pytest.mark.parametrize("kind", list(OWN))
def test_it_says_what_is_missing_of_its_own(copy: Path, kind: Any) -> None:
    for weights in (copy / OWN[kind]).glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ConfigurationError, match=f"{OWN[kind]}: cannot be loaded as"):
        kind.load(checkpoint_of(copy), LoadOptions())


@pytest.mark.parametrize("kind", list(OWN))
def test_pickled_weights_are_not_read(copy: Path, kind: Any) -> None:
    for weights in (copy / OWN[kind]).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConfigurationError, match="cannot be loaded as"):
        kind.load(checkpoint_of(copy), LoadOptions())


@pytest.mark.parametrize("kind", [VaeDecoder, VaeEncoder])
def test_a_vae_needs_no_other_part_at_all(copy: Path, kind: Any) -> None:
    for folder in copy.iterdir():
        if folder.is_dir() and folder.name != "vae":
            shutil.rmtree(folder)
    kind.load(checkpoint_of(copy), LoadOptions())
