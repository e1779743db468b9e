"""A stage in several deployments: what may differ between its pools, what must not, and what a change of them does."""

import re
from typing import Any

import pytest
import yaml

from pipelines.settings.cautions import cautions
from pipelines.settings.config_file import parse
from pipelines.settings.derived import capacity, derivations
from pipelines.settings.placement import homes, needed_elsewhere
from pipelines.settings.pools import described, pools_of
from pipelines.settings.schema.config import PARTS, AppConfig
from pipelines.settings.schema.deployments import AGREED, PartOverrides
from pipelines.settings.serve.applications import (
    COMPUTED_WITH,
    STAGES_BUILDER,
    StagesArgs,
    StagesSettings,
    SurfaceSettings,
    applications,
)
from pipelines.settings.serve.rollout import changes, steps
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from stages.host.kinds.registry import StageSpec
from stages.llm.settings import LlmSettings
from tests.pipelines.settings.shipped import SHIPPED

APP = "t"
SMALL = {"stages": ["m.llm"], "ray_actor_options": {"accelerator_type": "L4", "num_gpus": 0.5}}
LARGE = {"stages": ["m.llm"], "ray_actor_options": {"accelerator_type": "A100", "num_gpus": 1}}
EYES = {"stages": ["m.vision_encoder"]}
FOLDER = {"folder": "/m"}


def seeing() -> dict[str, Any]:
    return {
        "pipeline": "image_text",
        "vision_encoder": {"loader": "transformers", "source": FOLDER, "dtype": "float16"},
        "llm": {"source": FOLDER, "dtype": "bfloat16"},
    }


def config(*, ingress: tuple[str, ...] = (), **deployments: Any) -> AppConfig:
    named = {name.replace("_", "-"): given for name, given in deployments.items()}
    return parse({"models": {"m": seeing(), "n": seeing()}, "deployments": named, "ingress": {"stages": ingress}})


def overridden(**llm: Any) -> AppConfig:
    return config(small=SMALL | {"overrides": {"m.llm": llm}}, large=LARGE)


def spec(given: AppConfig, deployment: str, stage: str = "m.llm") -> StageSpec:
    """As a replica of a pool gets it."""
    (app,) = [app for app in applications(given, APP) if deployment in app.deployments]
    return next(found for found in StagesArgs.model_validate(app.args).spec().stages if found.name == stage)


def settings(given: AppConfig) -> dict[str, StagesSettings]:
    """By deployment."""
    return {
        name: StagesSettings.model_validate(overrides["user_config"])
        for app in applications(given, APP)
        if app.import_path == STAGES_BUILDER
        for name, overrides in app.deployments.items()
    }


def told(given: AppConfig) -> SurfaceSettings:
    """What the HTTP surface is told."""
    return SurfaceSettings.model_validate(applications(given, APP)[-1].deployments["ingress"]["user_config"])


def effects(before: AppConfig, after: AppConfig) -> dict[str, str]:
    now, wanted = ([app.document({}) for app in applications(given, APP)] for given in (before, after))
    return {change.deployment: change.effect.name for change in changes(now, wanted)}


def test_a_stage_may_live_in_several_deployments() -> None:
    given = config(small=SMALL, large=LARGE)
    assert homes(given)["m.llm"] == ("small", "large")
    assert [pool.deployment for pool in pools_of(given)["m.llm"]] == ["small", "large"]
    assert [at.deployment for at in told(given).stages["m.llm"]] == ["small", "large"]


def test_each_pool_has_what_differs_in_it_and_of_the_rest_what_the_model_says() -> None:
    given = overridden(dtype="float16", num_slots=4, prefill_chunk_tokens=64, queue={"max_items": 3}, max_step_s=7)
    small, large = spec(given, "small"), spec(given, "large")
    assert (small.options.dtype, large.options.dtype) == ("float16", "bfloat16")
    assert (small.batch.max_items, large.batch.max_items) == (4, 8)
    assert isinstance(small.settings, LlmSettings)
    assert (small.settings.num_slots, small.settings.prefill_chunk_tokens) == (4, 64)
    assert (small.max_step_s, large.max_step_s, small.source) == (7, 120, large.source)
    queues = settings(given)
    assert (queues["small"].queues["m.llm"].max_items, queues["large"].queues["m.llm"].max_items) == (3, 256)
    assert capacity(given.placement()["small"], given).max_ongoing_requests == 16
    assert "deployments.small.overrides.m.llm.batch.max_items: 4 (num_slots)" in derivations(given)


def test_a_part_of_a_batchs_bounds_leaves_the_other() -> None:
    llm = seeing()["llm"] | {"batch": {"max_items": 8, "max_cost": 512}}
    deployments = {"small": SMALL | {"overrides": {"m.llm": {"batch": {"max_cost": 64}}}}, "large": LARGE}
    given = parse({"models": {"m": seeing() | {"llm": llm}}, "deployments": deployments})
    assert [(spec(given, name).batch.max_items, spec(given, name).batch.max_cost) for name in ("small", "large")] == [
        (8, 64),
        (8, 512),
    ]


@pytest.mark.parametrize(
    "agreed",
    [
        {"source": {"folder": "/other"}},
        {"loader": "transformers"},
        {"max_context_tokens": 64},
        {"page_tokens": 16},
        {"contents": {"settings": "a", "whole": "b"}},
    ],
    ids=lambda agreed: next(iter(agreed)),
)
def test_what_must_agree_between_pools_is_refused_by_name(agreed: dict[str, Any]) -> None:
    (name,) = agreed
    with pytest.raises(
        ConfigurationError, match=rf"deployments\.small\.overrides\.m\.llm: {name} must be the same in every pool"
    ):
        overridden(**agreed)


def test_of_every_setting_of_a_part_it_is_decided_whether_pools_may_differ_in_it() -> None:
    known = {field for kind in PARTS.values() for field in kind.model_fields}
    assert known == {*PartOverrides.model_fields, *AGREED}
    assert set(PartOverrides.model_fields).isdisjoint(AGREED)
    assert set(COMPUTED_WITH) <= set(AGREED)  # or a pool's application would be named for what others don't compute with


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ({"dtype": "float8"}, r"m\.llm\.dtype: Input should be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ({"batch": {"max_items": 0}}, r"m\.llm\.batch\.max_items: Input should be greater"),
        ({"num_slots": 4, "batch": {"max_items": 8}}, r"m\.llm\.batch\.max_items: 8 beside num_slots 4"),
        ({"slots": 4}, r"m\.llm\.slots: Extra inputs"),
        ({"prefill_chunk_tokens": 4096}, r"m\.llm\.prefill_chunk_tokens: 4096 is over max_context_tokens 2048"),
    ],
    ids=str,
)
def test_an_impossible_setting_of_a_pool_is_refused_with_its_path(override: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"deployments\.small\.overrides\.{fault}"):
        overridden(**override)


def test_what_a_kind_of_stage_does_not_have_is_no_setting_of_its_pools() -> None:
    with pytest.raises(ConfigurationError, match=r"deployments\.eyes\.overrides\.m\.vision_encoder\.num_slots: Extra inputs"):
        config(eyes=EYES | {"overrides": {"m.vision_encoder": {"num_slots": 2}}})


def test_a_deployment_overrides_its_own_stages_only() -> None:
    with pytest.raises(ConfigurationError, match=r"deployments\.eyes: overrides: m\.llm is not one of its stages"):
        config(eyes=EYES | {"overrides": {"m.llm": {"dtype": "float32"}}})


def test_a_stage_is_in_a_deployment_once_and_beside_the_surface_in_none() -> None:
    with pytest.raises(ConfigurationError, match=r"deployments\.small\.stages: 'm\.llm' is there twice"):
        config(small=SMALL | {"stages": ["m.llm", "m.llm"]})
    with pytest.raises(ConfigurationError, match=r"ingress\.stages: 'm\.llm' is in deployments\.small, too"):
        config(small=SMALL, ingress=("m.llm", "m.vision_encoder"))


def test_who_needs_a_stage_finds_all_of_its_pools_unless_it_hosts_it_itself() -> None:
    given = config(fused={"stages": ["m.vision_encoder", "m.llm"]}, split={"stages": ["m.llm"]}, eyes=EYES)
    assert needed_elsewhere("fused", given) == {}
    assert needed_elsewhere("split", given) == {"m.vision_encoder": ("fused", "eyes")}
    found = settings(given)["split"].elsewhere["m.vision_encoder"]
    assert [at.deployment for at in found] == ["fused", "eyes"]


def test_deployments_that_wait_for_each_other_through_any_pool_are_refused() -> None:
    circle: dict[str, Any] = {"x": {"stages": ["m.llm", "n.vision_encoder"]}, "y": {"stages": ["n.llm", "m.vision_encoder"]}}
    beside: dict[str, Any] = {"eyes": EYES, "others": {"stages": ["n.vision_encoder"]}}
    with pytest.raises(ConfigurationError, match=r"x -> y -> x wait for each other's results in a circle"):
        config(**beside, **circle)
    fused = circle["x"] | {"stages": [*circle["x"]["stages"], "m.vision_encoder"]}
    assert config(**beside, x=fused, y=circle["y"])  # x resolves what it needs in its own process


def test_the_shipped_configurations_example_of_pools_is_sound() -> None:
    text = SHIPPED.read_text()
    (example,) = re.findall(r"^ +# denoiser-l4:\n(?: +#   .*\n)+", text, re.MULTILINE)
    used = text.replace(example, re.sub(r"^( +)# ", r"\1", example, flags=re.MULTILINE))
    given = yaml.safe_load(used)["applications"][0]["args"]
    assert [pool.part.dtype for pool in pools_of(parse(given))["triptych-paint.denoiser"]] == ["auto", "float16"]


def test_in_one_process_a_stage_is_as_in_its_first_pool() -> None:
    assert stage_specs(overridden(dtype="float32"))["m.llm"].options.dtype == "float32"
    assert stage_specs(config(large=LARGE, small=SMALL))["m.llm"].options.dtype == "bfloat16"


def test_the_surface_knows_of_a_pool_its_device_and_dtype_and_nothing_that_it_need_not_change_with() -> None:
    given = overridden(dtype="float16", num_slots=4)
    seen = told(given).config
    assert {name: seen.hosted(home)["m.llm"].dtype for name, home in seen.placement().items() if "m.llm" in home.stages} == {
        "small": "float16",
        "large": "bfloat16",
    }
    assert [seen.placement()[name].ray_actor_options.accelerator_type for name in ("small", "large")] == ["L4", "A100"]
    assert told(overridden(dtype="float16", num_slots=2)) == told(given)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (config(large=LARGE), config(large=LARGE, small=SMALL), {"small": "STARTS", "ingress": "RECONFIGURED"}),
        (config(large=LARGE, small=SMALL), config(large=LARGE), {"small": "ENDS", "ingress": "RECONFIGURED"}),
        (overridden(), overridden(dtype="float32"), {"small": "RESTARTS", "ingress": "RECONFIGURED"}),
        (overridden(), overridden(num_slots=2), {"small": "RESTARTS"}),
        (overridden(), overridden(queue={"max_items": 9}), {"small": "RECONFIGURED"}),
        (
            config(large=LARGE, eyes=EYES),
            config(large=LARGE, eyes=EYES, more_eyes=EYES),
            {"more-eyes": "STARTS", "large": "RECONFIGURED", "ingress": "RECONFIGURED"},
        ),
        (
            config(large=LARGE, eyes=EYES, more_eyes=EYES),
            config(large=LARGE, more_eyes=EYES),
            {"eyes": "ENDS", "large": "RECONFIGURED", "ingress": "RECONFIGURED"},
        ),
    ],
    ids=["a pool comes", "goes", "its dtype", "its slots", "its queue", "one that others need comes", "goes"],
)
def test_a_change_of_a_pool_restarts_no_other(before: AppConfig, after: AppConfig, expected: dict[str, str]) -> None:
    assert effects(before, after) == expected


def test_what_changes_of_pools_is_told_by_their_names_and_their_order_is_no_change() -> None:
    def told(before: AppConfig, after: AppConfig) -> dict[str, tuple[str, ...]]:
        now, wanted = ([app.document({}) for app in applications(given, APP)] for given in (before, after))
        return {change.deployment: change.settings for change in changes(now, wanted)}

    one = config(large=LARGE, eyes=EYES)
    two, turned = config(large=LARGE, eyes=EYES, more=EYES), config(more=EYES, eyes=EYES, large=LARGE)
    assert told(one, two)["large"] == ("user_config.elsewhere.m.vision_encoder.more",)
    assert "user_config.stages.m.vision_encoder.more" in told(one, two)["ingress"]
    assert told(two, turned) == {}


def test_who_needs_a_pools_stage_is_told_of_it_once_it_is_there_and_before_it_goes() -> None:
    one, two = config(large=LARGE, eyes=EYES), config(large=LARGE, other_eyes=EYES)
    now, wanted = ([app.document({}) for app in applications(given, APP)] for given in (one, two))
    started, told, surface, ended = steps(now, wanted, APP)

    def deployments(applications: Any) -> dict[str, list[str]]:
        """Of those that the LLM may call in this step, and the pools that run."""
        overrides = {given["name"]: given for app in applications for given in app.get("deployments", ())}
        elsewhere = overrides["large"]["user_config"]["elsewhere"]["m.vision_encoder"]
        return {"calls": [at["deployment"] for at in elsewhere], "run": sorted(name for name in overrides if "eyes" in name)}

    both = ["eyes", "other-eyes"]
    assert [deployments(step.applications) for step in (started, told, surface, ended)] == [
        {"calls": ["eyes"], "run": both},
        {"calls": ["other-eyes"], "run": both},
        {"calls": ["other-eyes"], "run": both},
        {"calls": ["other-eyes"], "run": ["other-eyes"]},
    ]
    assert ended.ends


def test_who_needs_what_has_no_room_yet_asks_the_old_one_until_that_goes() -> None:
    """Or what still asks by the old settings would wait for what starts only after it has been answered."""
    eyes = {"stages": ["m.vision_encoder", "n.vision_encoder"], "max_surge_percent": 0}
    models = {"m": seeing(), "n": seeing()}
    others = models["n"] | {"vision_encoder": models["n"]["vision_encoder"] | {"source": {"folder": "/other"}}}
    now, wanted = (
        [
            app.document({})
            for app in applications(parse({"models": given, "deployments": {"eyes": eyes, "large": LARGE}}), APP)
        ]
        for given in (models, models | {"n": others})
    )

    def asked(applications: Any) -> tuple[set[str], set[str]]:
        """The encoder that m's LLM asks, and those that run; by their applications."""
        found = {given["name"]: given for app in applications for given in app.get("deployments", ())}
        pools = found["large"]["user_config"]["elsewhere"]["m.vision_encoder"]
        running = {app["name"] for app in applications if any(given["name"] == "eyes" for given in app.get("deployments", ()))}
        return {at["application"] for at in pools}, running

    (old, _), (new, _) = asked(now), asked(wanted)
    *before, ends, last = steps(now, wanted, APP)
    assert old != new
    assert [asked(step.applications) for step in before] == [(old, old)] * len(before)
    assert (asked(ends.applications), ends.ends) == ((new, set()), True)
    assert asked(last.applications) == (new, new)


def test_the_surfaces_own_stages_restart_with_the_weights_that_they_need_and_not_with_their_pools() -> None:
    one, two = config(eyes=EYES, ingress=("m.llm",)), config(eyes=EYES, more=EYES, ingress=("m.llm",))
    assert effects(one, two) == {"more": "STARTS", "ingress": "RECONFIGURED"}
    other = seeing() | {"vision_encoder": seeing()["vision_encoder"] | {"source": {"folder": "/other"}}}
    given = {"models": {"m": other, "n": seeing()}, "deployments": {"eyes": EYES}, "ingress": {"stages": ["m.llm"]}}
    assert effects(one, parse(given)) == {"eyes": "REPLACED", "ingress": "RESTARTS"}


def test_pools_of_one_stage_are_described() -> None:
    given = overridden(dtype="float16", num_slots=4)
    assert list(described(given)) == [
        "m.llm in small: on 0.5 x L4, dtype float16, 4 at a time",
        "m.llm in large: on 1 x A100, dtype bfloat16, 8 at a time",
    ]
    assert list(described(config(large=LARGE))) == []


def mind(given: AppConfig) -> list[str]:
    return [line.partition(":")[0] for line in cautions(given) if "unlike dtypes" in line]


def test_pools_of_unlike_dtypes_are_to_be_minded() -> None:
    (line,) = [line for line in cautions(overridden(dtype="float16")) if "unlike dtypes" in line]
    assert "float16 in small, bfloat16 in large" in line
    assert "models.m.llm.dtype" in line
    assert mind(overridden()) == mind(overridden(num_slots=4)) == []


def test_auto_is_to_be_minded_where_it_may_come_to_two() -> None:
    auto = {"m.llm": {"dtype": "auto"}}
    small, large = SMALL | {"overrides": auto}, LARGE | {"overrides": auto}
    assert mind(config(small=small, large=large))
    assert mind(config(small=small, other=small)) == []
