"""What may be asked of a painter (sizes, above all of an image that is given), and what an unasked-for setting becomes."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.jobs import GivenImage, ImagePart, PaintJob
from pipelines.rules.paint_rules import PaintRules, Size
from pipelines.settings.schema.config import TextToImageModel
from stages.contract.errors import ConfigurationError, InvalidRequest
from stages.diffusion.families.describe import Guidance, PainterInfo

RULES = PaintRules(
    sizes=(),
    default_size=(64, 64),
    size_multiple=8,
    max_pixels=10_000,
    default_steps=20,
    max_steps=50,
    default_guidance_scale=3.0,
    default_strength=0.8,
    samplers=("euler",),
    negative_prompts=True,
    max_prompt_tokens=600,
    max_side=128,
)
FIXED = replace(RULES, sizes=((64, 64), (96, 64)))


def edit(width: int, height: int, strength: float | None = None) -> PaintJob:
    return PaintJob("a boat", init=GivenImage(ImagePart(b"", width, height, "image"), strength))


@pytest.mark.parametrize(
    ("rules", "given", "painted"),
    [
        (RULES, (96, 80), (96, 80)),
        (RULES, (97, 80), (64, 64)),  # not a multiple
        (RULES, (4, 80), (64, 64)),
        (RULES, (104, 104), (64, 64)),  # too many pixels
        (RULES, (136, 8), (64, 64)),  # too long a side
        (FIXED, (96, 64), (96, 64)),
        (FIXED, (64, 96), (64, 64)),
    ],
)
def test_an_edit_without_a_size_keeps_the_images_own_where_the_model_paints_it(
    rules: PaintRules, given: Size, painted: Size
) -> None:
    assert rules.size(edit(*given)) == painted


def test_a_size_that_is_asked_for_goes_before_the_images_own() -> None:
    assert RULES.size(replace(edit(96, 80), width=32, height=16)) == (32, 16)
    assert RULES.size(PaintJob("a boat")) == (64, 64)


@pytest.mark.parametrize(
    ("rules", "size", "told"),
    [
        (FIXED, (32, 32), "size 32x32 is not served; this model paints 64x64, 96x64"),
        (RULES, (60, 64), "size 60x64: both sides must be multiples of 8, and at least that"),
        (RULES, (104, 104), r"size 104x104 has 10816 pixels; at most 10000 \(models\.\*\.max_pixels\)"),
        (RULES, (136, 8), "size 136x8: this model paints at most 128 pixels a side"),
    ],
)
def test_a_size_that_the_model_does_not_paint_is_refused(rules: PaintRules, size: Size, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as refusal:
        rules.size(PaintJob("a boat", width=size[0], height=size[1]))
    assert refusal.value.param == "size"


@pytest.mark.parametrize(
    ("job", "param"),
    [
        (PaintJob("a boat", steps=51), "steps"),
        (PaintJob("a boat", sampler="magic"), "sampler"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_with_its_field(job: PaintJob, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        [RULES.steps(job), RULES.guidance_scale(job), RULES.sampler(job)]
    assert refusal.value.param == param


def test_what_is_not_asked_for_is_the_models_own() -> None:
    job = edit(64, 64)
    assert (RULES.steps(job), RULES.guidance_scale(job), RULES.sampler(job), RULES.strength(job)) == (20, 3.0, None, 0.8)
    assert RULES.strength(edit(64, 64, strength=0.3)) == 0.3


INFO = PainterInfo(
    family="flux",
    default_size=(1024, 1024),
    latent_channels=16,
    latent_factor=8,
    size_multiple=16,
    max_prompt_tokens=511,
    prediction_type="flow_prediction",
    samplers=("flow_euler",),
    default_sampler="flow_euler",
    max_steps=500,
    default_steps=4,
    default_guidance_scale=0.0,
    guidance=Guidance.NONE,
)


def model(**more: Any) -> TextToImageModel:
    part = {"source": {"demo": "painter"}}
    parts = {"text_encoder": part, "denoiser": part, "vae_decoder": part}
    return TextToImageModel.model_validate({"pipeline": "text_to_image"} | parts | more)


def test_steps_and_guidance_that_nobody_configured_are_the_checkpoints() -> None:
    rules = PaintRules.of("paint", model(), INFO)
    assert (rules.steps(PaintJob("a boat")), rules.guidance_scale(PaintJob("a boat"))) == (4, 0.0)
    assert (rules.default_size, rules.max_prompt_tokens, rules.negative_prompts) == ((1024, 1024), 511, False)


def test_steps_and_guidance_that_are_configured_go_before_the_checkpoints() -> None:
    rules = PaintRules.of("paint", model(default_steps=9, default_guidance_scale=0, max_pixels=5_000_000), INFO)
    assert (rules.default_steps, rules.default_guidance_scale, rules.max_pixels) == (9, 0, 5_000_000)
    guided = PaintRules.of("paint", model(default_guidance_scale=2.5), INFO)
    assert guided.default_guidance_scale == 2.5


def test_the_checkpoints_steps_stay_within_the_most_that_are_configured() -> None:
    assert PaintRules.of("paint", model(max_steps=3), INFO).default_steps == 3


@pytest.mark.parametrize(("configured", "most"), [(150, 150), (900, 500)])
def test_no_more_steps_are_allowed_than_the_checkpoint_takes(configured: int, most: int) -> None:
    assert PaintRules.of("paint", model(max_steps=configured), INFO).max_steps == most


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sizes": ["512x520"]}, r"models\.paint\.sizes: 512x520: both sides must be multiples of 16"),
        ({"default_steps": 600, "max_steps": 900}, r"models\.paint\.default_steps: 600 .* at most 500"),
    ],
)
def test_a_setting_that_the_checkpoint_cannot_follow_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        PaintRules.of("paint", model(**settings), INFO)


@pytest.mark.parametrize("guidance", [None, 0.0, 1.0])
def test_a_model_without_guidance_takes_no_scale_that_would_mean_any(guidance: float | None) -> None:
    rules = replace(RULES, has_guidance=False, default_guidance_scale=0.0)
    assert rules.guidance_scale(PaintJob("a boat", guidance_scale=guidance)) == (guidance or 0.0)
    with pytest.raises(InvalidRequest, match=r"guidance_scale 3\.5 has no effect") as refused:
        rules.guidance_scale(PaintJob("a boat", guidance_scale=3.5))
    assert refused.value.param == "guidance_scale"
