"""The table of kinds of stage: what is looked up, what is refused, and what looking up costs."""

import subprocess
import sys
from dataclasses import replace

import pytest

from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.errors import ConfigurationError
from stages.contract.limits import BatchLimits, QueueLimits
from stages.host.kinds.registry import KINDS, StageSpec, load, part_files, table_of

SPEC = StageSpec("see.llm", "llm", "transformers", Source(demo="smollm2"), LoadOptions(), BatchLimits(), QueueLimits())


def test_every_kind_that_the_configuration_knows_is_there() -> None:
    assert set(KINDS) == {
        ("vision_encoder", "open_clip"),
        ("vision_encoder", "transformers"),
        ("embedder", "open_clip"),
        ("llm", "transformers"),
        ("text_encoder", "diffusers"),
        ("denoiser", "diffusers"),
        ("vae_decoder", "diffusers"),
        ("vae_encoder", "diffusers"),
    }


@pytest.mark.parametrize(
    ("kind", "loader", "message"),
    [
        ("vision_encoder", "diffusers", "cannot load a vision_encoder; those that can: open_clip, transformers"),
        ("wheel", "diffusers", "cannot load a wheel; those that can: none"),
    ],
)
def test_a_loader_that_cannot_load_a_kind_is_refused_with_those_that_can(kind: str, loader: str, message: str) -> None:
    spec = replace(SPEC, kind=kind, loader=loader)
    for ask in (load, part_files, StageSpec.whole):
        with pytest.raises(ConfigurationError, match=message):
            ask(spec)


def test_a_kind_is_in_the_table_once() -> None:
    with pytest.raises(ConfigurationError, match="the same name and loader"):
        table_of(*KINDS.values(), KINDS["llm", "transformers"])


def test_looking_up_imports_no_model_library() -> None:
    script = (
        "import sys; import stages.host.kinds.registry; "
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'open_clip', 'torchvision'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_llm_without_its_settings_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="an llm needs num_slots, max_context_tokens and prefill_chunk_tokens"):
        load(SPEC)


def test_a_tower_without_a_projector_is_refused() -> None:
    spec = replace(SPEC, kind="vision_encoder", loader="open_clip", source=Source(demo="clip"))
    with pytest.raises(ConfigurationError, match="an open_clip tower needs a projector"):
        load(spec)
