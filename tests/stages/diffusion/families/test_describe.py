import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from stages.checkpoints.checkpoint import Checkpoint, Source, fingerprint
from stages.contract.errors import ConfigurationError
from stages.diffusion.checkpoint.checkpoint_parts import part_files
from stages.diffusion.families.describe import Guidance
from stages.diffusion.families.families import describe
from tests.stages.diffusion.painter import checkpoint_of
from tests.stages.diffusion.tiny import save_flux, save_stable_diffusion_3, save_stable_diffusion_xl

pytestmark = pytest.mark.models


@pytest.fixture
def copy(sd_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd_folder, tmp_path / "copy"))


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_checkpoint_is_described_by_its_settings(sd_folder: Path) -> None:
    info = describe(checkpoint_of(sd_folder))
    assert info.family == "stable_diffusion"
    assert info.default_size == (32, 32)
    assert (info.latent_channels, info.latent_factor, info.size_multiple) == (4, 4, 4)
    assert info.max_prompt_tokens == 8 * 14
    assert (info.prediction_type, info.default_sampler, info.max_steps) == ("epsilon", "ddim", 500)
    assert info.guidance is Guidance.CLASSIFIER_FREE
    assert info.negative_prompts
    assert "flow_euler" not in info.samplers


def test_a_description_needs_neither_weights_nor_torch(copy: Path) -> None:
    for weights in copy.rglob("*.safetensors"):
        weights.unlink()
    script = (
        "import sys; from pathlib import Path; from stages.checkpoints.checkpoint import Checkpoint, Source; "
        "from stages.diffusion.families.families import describe; "
        f"print(describe(Checkpoint(Source(folder='x'), Path({str(copy)!r}))).family); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "stable_diffusion"), done.stderr


def test_every_part_has_a_fingerprint_of_its_own_files(copy: Path) -> None:
    def fingerprints() -> dict[str, str]:
        return {
            part: fingerprint(Source(folder=str(copy)), part_files(part))
            for part in ("text_encoder", "denoiser", "vae_decoder")
        }

    files = {
        "text_encoder": "tokenizer/tokenizer.json",
        "denoiser": "scheduler/scheduler_config.json",
        "vae_decoder": "vae/config.json",
    }
    for part, file in files.items():
        before = fingerprints()
        edit(copy / file, changed=part)
        changed = {name for name, digest in fingerprints().items() if digest != before[name]}
        assert changed == {part}
    assert len(set(fingerprints().values())) == 3


def test_weights_are_part_of_a_fingerprint(copy: Path) -> None:
    before = fingerprint(Source(folder=str(copy)), part_files("text_encoder"))
    weights = copy / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert fingerprint(Source(folder=str(copy)), part_files("text_encoder")) != before


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="text_encoder, denoiser, vae_decoder, vae_encoder"):
        part_files("wheel")


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model_index\.json: cannot be read"):
        describe(checkpoint_of(tmp_path))


def test_an_index_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ConfigurationError, match="is not JSON"):
        describe(checkpoint_of(tmp_path))


def test_another_pipeline_class_is_refused_with_what_is_supported(copy: Path) -> None:
    edit(copy / "model_index.json", _class_name="KandinskyPipeline")
    with pytest.raises(ConfigurationError, match=r"KandinskyPipeline is not supported; supported are StableDiffusionPipeline"):
        describe(checkpoint_of(copy))


def test_an_inpainting_unet_is_refused(copy: Path) -> None:
    edit(copy / "unet" / "config.json", in_channels=9)
    with pytest.raises(ConfigurationError, match="takes 9 channels and the vae has 4"):
        describe(checkpoint_of(copy))


def test_an_unknown_scheduler_is_refused_with_the_known_ones(copy: Path) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", _class_name="ScoreSdeVeScheduler")
    with pytest.raises(ConfigurationError, match=r"ScoreSdeVeScheduler is not supported; supported are DDIMScheduler"):
        describe(checkpoint_of(copy))


def test_a_setting_of_the_wrong_type_is_named(copy: Path) -> None:
    edit(copy / "unet" / "config.json", sample_size="wide")
    with pytest.raises(ConfigurationError, match="sample_size must be an integer or a list of two, not 'wide'"):
        describe(checkpoint_of(copy))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"algorithm_type": "dpmsolver++"}, "dpmpp_2m"),
        ({"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde"),
        ({"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}, "dpmpp_2m_karras"),
    ],
)
def test_the_checkpoints_own_sampler_is_known_by_its_settings(copy: Path, settings: dict[str, object], name: str) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", _class_name="DPMSolverMultistepScheduler", **settings)
    assert describe(checkpoint_of(copy)).default_sampler == name


def test_a_flow_checkpoint_allows_only_samplers_that_know_flow(copy: Path) -> None:
    edit(
        copy / "scheduler" / "scheduler_config.json",
        _class_name="DPMSolverMultistepScheduler",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
    )
    info = describe(checkpoint_of(copy))
    assert info.samplers == ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "deis", "unipc", "flow_euler", "flow_heun")


XL_TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing", "prediction_type": "epsilon"}
LATENT_CONSISTENCY = {"_class_name": "LCMScheduler", "original_inference_steps": 50}
ZERO_TERMINAL = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("scheduler", "unet", "usual"),
    [
        ({}, {}, (30, 7.5)),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}, {}, (30, 7.5)),
        (XL_TURBO, {}, (4, 0.0)),
        (XL_TURBO | {"_class_name": "EulerDiscreteScheduler"}, {}, (4, 0.0)),
        (LATENT_CONSISTENCY, {"time_cond_proj_dim": 8}, (4, 8.5)),
        (LATENT_CONSISTENCY, {}, (4, 1.0)),
        (ZERO_TERMINAL, {}, (30, 7.5)),
        (ZERO_TERMINAL | {"rescale_betas_zero_snr": False, "prediction_type": "v_prediction"}, {}, (30, 7.5)),
        ({"num_train_timesteps": 40}, {}, (20, 7.5)),
    ],
)
def test_steps_and_guidance_are_those_of_the_checkpoints_kind(
    copy: Path, scheduler: dict[str, object], unet: dict[str, object], usual: tuple[int, float]
) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", **scheduler)
    edit(copy / "unet" / "config.json", **unet)
    info = describe(checkpoint_of(copy))
    assert (info.default_steps, info.default_guidance_scale) == usual


@pytest.mark.parametrize(
    ("save", "usual"),
    [
        (save_stable_diffusion_xl, (30, 5.0)),
        (save_stable_diffusion_3, (28, 7.0)),
        (partial(save_flux, distilled=True), (28, 3.5)),
        (partial(save_flux, distilled=False), (4, 0.0)),
    ],
    ids=["xl", "3", "flux dev", "flux schnell"],
)
def test_steps_and_guidance_are_the_familys(tmp_path: Path, save: Callable[[Path], Path], usual: tuple[int, float]) -> None:
    info = describe(checkpoint_of(save(tmp_path)))
    assert (info.default_steps, info.default_guidance_scale) == usual


@pytest.mark.parametrize(
    ("source", "saved_as", "usual"),
    [
        (Source(hub="stabilityai/stable-diffusion-3.5-large-turbo"), None, (4, 0.0)),
        (Source(hub="stabilityai/stable-diffusion-3.5-large"), None, (28, 7.0)),
        (Source(hub="me/mine"), "stabilityai/stable-diffusion-3.5-large-turbo", (4, 0.0)),
        (Source(hub="me/mine"), "stabilityai/stable-diffusion-3.5-medium", (28, 7.0)),
    ],
)
def test_a_turbo_of_3_is_known_by_its_name_as_its_settings_are_those_of_its_teacher(
    tmp_path: Path, source: Source, saved_as: str | None, usual: tuple[int, float]
) -> None:
    folder = save_stable_diffusion_3(tmp_path / "turbo" / "3")  # a folder above the checkpoint's own has no say
    if saved_as is not None:
        edit(folder / "transformer" / "config.json", _name_or_path=saved_as)
    info = describe(Checkpoint(source, folder))
    assert (info.default_steps, info.default_guidance_scale) == usual


def test_a_turbo_of_3_is_known_by_the_name_of_its_folder(tmp_path: Path) -> None:
    info = describe(checkpoint_of(save_stable_diffusion_3(tmp_path / "Stable-Diffusion-3.5-Large-Turbo")))
    assert (info.default_steps, info.default_guidance_scale) == (4, 0.0)
