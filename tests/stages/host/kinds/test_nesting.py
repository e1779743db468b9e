"""Who waits for whom, and where that goes round in a circle."""

import pytest

from stages.host.kinds.nesting import cycle, needed_by

SEE = ("see.llm", "see.vision_encoder")
PAINT = ("paint.text_encoder", "paint.denoiser", "paint.vae_decoder", "paint.vae_encoder")


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        ("see.llm", ("see.vision_encoder",)),
        ("org/see.llm", ()),
        ("paint.denoiser", ("paint.text_encoder", "paint.vae_encoder")),
        ("paint.vae_decoder", ()),
        ("see.vision_encoder", ()),
    ],
)
def test_a_stage_waits_for_stages_of_its_own_model(stage: str, needed: tuple[str, ...]) -> None:
    assert needed_by(stage, (*SEE, *PAINT)) == needed


def test_a_model_whose_id_has_dots_keeps_its_parts() -> None:
    assert needed_by("llama-3.2.llm", ("llama-3.2.vision_encoder", "llama-3.vision_encoder")) == ("llama-3.2.vision_encoder",)


@pytest.mark.parametrize(
    "deployments",
    [
        {"llm": ["see.llm"], "vision": ["see.vision_encoder"]},
        {"all": [*SEE, *PAINT]},
        {"denoiser": ["paint.denoiser"], "vae": ["paint.vae_decoder", "paint.vae_encoder"], "text": ["paint.text_encoder"]},
        {"a": ["one.llm", "two.llm"], "b": ["one.vision_encoder", "two.vision_encoder"]},
    ],
)
def test_what_goes_one_way_is_no_circle(deployments: dict[str, list[str]]) -> None:
    assert cycle(deployments) == ()


def test_two_deployments_that_wait_for_each_other_are_a_circle() -> None:
    found = cycle({"x": ["paint.denoiser"], "a": ["one.llm", "two.vision_encoder"], "b": ["two.llm", "one.vision_encoder"]})
    assert found == ("a", "b", "a")


def test_a_circle_through_a_third_is_found_without_those_that_only_lead_to_it() -> None:
    found = cycle(
        {
            "lead": ["four.llm"],
            "a": ["one.llm", "three.vision_encoder", "four.vision_encoder"],
            "b": ["two.llm", "one.vision_encoder"],
            "c": ["three.llm", "two.vision_encoder"],
        }
    )
    assert found == ("a", "b", "c", "a")
