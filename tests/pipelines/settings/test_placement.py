"""Placements in which deployments would wait for each other are refused."""

from typing import Any

import pytest

from pipelines.settings.config_file import parse
from pipelines.settings.placement import needed_elsewhere
from pipelines.settings.schema.config import AppConfig
from stages.contract.errors import ConfigurationError


def seeing() -> dict[str, Any]:
    return {
        "pipeline": "image_text",
        "vision_encoder": {"loader": "transformers", "source": {"folder": "/m"}},
        "llm": {"source": {"folder": "/m"}},
    }


def config(ingress: tuple[str, ...] = (), **deployments: tuple[str, ...]) -> AppConfig:
    placed = {name: {"stages": stages} for name, stages in deployments.items()}
    return parse({"models": {"a": seeing(), "b": seeing()}, "deployments": placed, "ingress": {"stages": ingress}})


def test_models_that_share_deployments_by_kind_are_no_circle() -> None:
    shared = config(encoders=("a.vision_encoder", "b.vision_encoder"), llms=("a.llm", "b.llm"))
    assert needed_elsewhere("llms", shared) == {"a.vision_encoder": ("encoders",), "b.vision_encoder": ("encoders",)}
    assert needed_elsewhere("encoders", shared) == {}


def test_what_lives_together_is_needed_from_nowhere_else() -> None:
    assert needed_elsewhere("all", config(all=("a.vision_encoder", "a.llm"))) == {}


def test_deployments_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"x -> y -> x wait for each other's results in a circle"):
        config(x=("a.llm", "b.vision_encoder"), y=("b.llm", "a.vision_encoder"))


def test_a_stage_with_the_surface_that_a_deployment_needs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"a\.vision_encoder lives with the HTTP surface, which waits for a\.llm"):
        config(ingress=("a.vision_encoder",))


@pytest.mark.parametrize("own", [("a.llm",), ("a.llm", "a.vision_encoder")])
def test_the_surfaces_own_stages_may_need_others(own: tuple[str, ...]) -> None:
    assert config(ingress=own).ingress.stages == own
