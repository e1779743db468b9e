"""Positions counted by tokenizers alone are those of the embeddings that the encoders make."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stages.checkpoints.checkpoint import LoadOptions, Source, resolve
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.contract.recipe import NO_INPUTS
from stages.diffusion.messages import EncodePrompt
from stages.diffusion.prompt_lengths import PromptLengths
from stages.diffusion.text_encoder import TextEncoder
from tests.stages.diffusion.painter import checkpoint_of
from tests.stages.diffusion.tiny import (
    save_flux,
    save_stable_diffusion,
    save_stable_diffusion_3,
    save_stable_diffusion_xl,
)
from tests.stages.text.hostile import UNITS, repeated

pytestmark = pytest.mark.models

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "1": save_stable_diffusion,
    "xl": save_stable_diffusion_xl,
    "3": save_stable_diffusion_3,
    "3 without t5": lambda folder: save_stable_diffusion_3(folder, t5=False),
    "flux": save_flux,
}
TEXTS = ["", "a red circle", " ".join("abcdefghijklmn"), " ".join("abcdefghijklmno"), " ".join(["a"] * 100)]
TOO_LONG = " ".join(["a"] * 600)


@pytest.fixture(scope="module", params=list(BUILDERS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp("family"))


def test_a_prompt_has_as_many_positions_as_its_embedding(folder: Path) -> None:
    lengths, stage = PromptLengths.load(checkpoint_of(folder)), TextEncoder.load(checkpoint_of(folder), LoadOptions())
    results = stage.run([stage.prepare(EncodePrompt(text), NO_INPUTS) for text in TEXTS])
    assert [lengths.positions(text) for text in TEXTS] == [len(result.embeds) for result in results]


def test_a_shorter_prompt_that_is_asked_for_the_longer_ones_positions_has_as_many(folder: Path) -> None:
    lengths, stage = PromptLengths.load(checkpoint_of(folder)), TextEncoder.load(checkpoint_of(folder), LoadOptions())
    short, long = TEXTS[1], TEXTS[-1]
    filled = stage.prepare(EncodePrompt(short, lengths.positions(long)), NO_INPUTS)
    both = stage.run([filled, stage.prepare(EncodePrompt(long), NO_INPUTS)])
    assert len({len(result.embeds) for result in both}) == 1


def test_a_prompt_that_is_too_long_is_refused_as_the_encoder_refuses_it(folder: Path) -> None:
    stage = TextEncoder.load(checkpoint_of(folder), LoadOptions())
    with pytest.raises(InvalidRequest) as expected:
        stage.prepare(EncodePrompt(TOO_LONG), NO_INPUTS)
    with pytest.raises(InvalidRequest) as caught:
        PromptLengths.load(checkpoint_of(folder)).positions(TOO_LONG)
    assert (caught.value.message, caught.value.param) == (expected.value.message, expected.value.param)


def test_positions_may_be_asked_for_by_many_threads_at_once(folder: Path) -> None:
    lengths = PromptLengths.load(checkpoint_of(folder))
    texts = [" ".join(["a"] * (index % 100)) for index in range(400)]
    expected = [lengths.positions(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lengths.positions, texts)) == expected


@pytest.mark.parametrize("name", list(BUILDERS))
def test_counting_takes_neither_weights_nor_torch(tmp_path: Path, name: str) -> None:
    folder = BUILDERS[name](tmp_path)
    shutil.rmtree(folder / "words", ignore_errors=True)
    for weights in folder.rglob("*.safetensors*"):
        weights.unlink()
    script = (
        "import sys; from pathlib import Path; from stages.checkpoints.checkpoint import Checkpoint, Source; "
        "from stages.diffusion.prompt_lengths import PromptLengths; "
        f"print(PromptLengths.load(Checkpoint(Source(folder='x'), Path({str(folder)!r}))).positions('a red circle')); "
        "sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) == PromptLengths.load(checkpoint_of(folder)).positions("a red circle")


def test_the_demos_painter_counts(tmp_path: Path) -> None:
    assert PromptLengths.load(resolve(Source(demo="painter"))).positions("a red circle on a gray background") > 0


def test_a_checkpoint_without_tokenizers_is_refused(tmp_path: Path) -> None:
    folder = save_stable_diffusion(tmp_path)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ConfigurationError, match="tokenizer"):
        PromptLengths.load(checkpoint_of(folder))


@pytest.mark.parametrize("name", UNITS)
def test_a_prompt_that_is_far_too_long_is_refused_whatever_its_characters(flux: PromptLengths, name: str) -> None:
    with pytest.raises(InvalidRequest, match="the prompt has more than") as caught:
        flux.positions(repeated(UNITS[name], 150_000) + " a" * 25_000)
    assert caught.value.param == "prompt"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> PromptLengths:
    return PromptLengths.load(checkpoint_of(save_flux(tmp_path_factory.mktemp("flux"))))
