"""What the scaler is told, and how numbers of replicas go into what Serve is told."""

import re
from copy import deepcopy
from typing import Any

import pytest

from pipelines.settings.config_file import parse
from pipelines.settings.serve.applications import applications
from pipelines.settings.serve.rollout import Document
from pipelines.settings.serve.scaled import SCALER, ScaledPool, ScalerSettings, bare, filled, scaler_settings
from stages.contract.errors import ConfigurationError
from tests.pipelines.settings.shipped import shipped_args

SHIPPED = shipped_args()


def told(**deployments: Any) -> dict[str, ScaledPool]:
    """By deployment, of the shipped configuration with other settings of some."""
    args = deepcopy(SHIPPED)
    for name, settings in deployments.items():
        args["deployments"][name] |= settings
    config = parse(args)
    hosts = {name: f"app-{name}" for name in config.placement()}
    return {pool.deployment: pool for pool in scaler_settings(config, hosts).pools}


def documents(args: dict[str, Any]) -> list[dict[str, Any]]:
    return [app.document({}) for app in applications(parse(args), "t")]


def with_(document: Document, deployment: str) -> bool:
    return deployment in [given["name"] for given in document.get("deployments") or ()]


def numbers(some: Any) -> dict[str, int | None]:
    return {
        given["name"]: given.get("num_replicas")
        for document in some
        if document.get("external_scaler_enabled")
        for given in document["deployments"]
    }


def test_every_deployment_takes_part_of_the_budget_and_those_that_scale_are_scaled() -> None:
    pools = told(llm={"autoscaling_config": None, "num_replicas": 3})
    assert set(pools) == set(SHIPPED["deployments"])
    llm, clip = pools["llm"], pools["clip"]
    assert (llm.is_fixed, llm.min_replicas, llm.max_replicas) == (True, 3, 3)
    assert (clip.is_fixed, clip.min_replicas, clip.max_replicas, clip.to_zero_after_s) == (False, 0, 1, 600)
    assert clip.application == "app-clip"


@pytest.mark.parametrize(
    ("options", "device", "devices"),
    [({"num_cpus": 0.3}, "cpu", 0.3), ({"num_gpus": 0.5, "accelerator_type": "L4"}, "L4", 0.5), ({"num_gpus": 2}, "gpu", 2.0)],
)
def test_a_replica_takes_its_part_of_a_device(options: dict[str, Any], device: str, devices: float) -> None:
    args = deepcopy(SHIPPED)
    if "num_gpus" in options:
        for stage in range(int(max(1, options["num_gpus"]))):
            args["models"]["triptych-paint"][("vae_decoder", "vae_encoder")[stage]]["device"] = f"cuda:{stage}"
    args["deployments"]["vae"]["ray_actor_options"] = options
    config = parse(args)
    (vae,) = [
        pool for pool in scaler_settings(config, dict.fromkeys(config.placement(), "a")).pools if pool.deployment == "vae"
    ]
    assert (vae.device, vae.devices) == (device, devices)


def test_items_go_from_stage_to_stage() -> None:
    pools = told()
    assert pools["llm"].after == {"triptych-see.llm": ("triptych-see.vision_encoder",)}
    assert pools["denoiser"].after == {
        "triptych-paint.denoiser": ("triptych-paint.text_encoder", "triptych-paint.vae_encoder")
    }
    assert pools["vae"].after == {"triptych-paint.vae_decoder": ("triptych-paint.denoiser",)}
    assert pools["clip"].after == {}


def test_only_a_delay_that_was_asked_for_holds_up_a_rise() -> None:
    scaling = SHIPPED["deployments"]["llm"]["autoscaling_config"]
    assert told()["llm"].up_after_s == 0
    assert told(llm={"autoscaling_config": scaling | {"upscale_delay_s": 30}})["llm"].up_after_s == 30


def test_without_any_that_scales_there_is_no_scaler() -> None:
    args = deepcopy(SHIPPED)
    for deployment in args["deployments"].values():
        del deployment["autoscaling_config"]
    assert not [document for document in documents(args) if with_(document, SCALER)]
    (scaler,) = [document for document in documents(SHIPPED) if with_(document, SCALER)]
    assert ScalerSettings.model_validate(scaler["deployments"][0]["user_config"]).pools


def test_what_is_scaled_begins_with_its_minimum_and_none_is_told_of_none() -> None:
    args = deepcopy(SHIPPED)
    args["deployments"]["llm"]["autoscaling_config"] |= {"min_replicas": 2}
    begun = numbers(filled(documents(args), {}))
    assert (begun["llm"], begun["denoiser"], begun["clip"]) == (2, 1, None)


def test_what_is_scaled_keeps_its_number_whatever_else_changes() -> None:
    now = documents(SHIPPED)
    (llm,) = [document["name"] for document in now if with_(document, "llm")]
    assert numbers(filled(now, {(llm, "llm"): 7}))["llm"] == 7
    assert numbers(filled(now, {("t-llm-before", "llm"): 5}))["llm"] == 5  # of other weights, whose place it takes
    assert list(bare(filled(now, {(llm, "llm"): 7}))) == now


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ({"devices": {"cpu": 0.5}}, "scaling.budget.devices.cpu: 0.5 has no room for what must be there, which is 0.9"),
        ({"price_per_hour": 0.8}, "scaling.budget.price_per_hour: 0.8 doesn't pay for what must be there, which costs 0.9"),
        ({"devices": {"cpu": 0.9, "L4": 0}, "price_per_hour": 0.9}, ""),
    ],
)
def test_a_budget_without_room_for_what_must_be_there_is_refused(budget: dict[str, Any], told: str) -> None:
    args = deepcopy(SHIPPED) | {"scaling": {"budget": budget, "prices": {"cpu": 1.0}}}
    if told:
        with pytest.raises(ConfigurationError, match=re.escape(told)):
            parse(args)
    else:
        parse(args)


def test_a_number_that_is_fixed_is_left_alone() -> None:
    args = deepcopy(SHIPPED)
    args["deployments"]["llm"] = {"stages": ["triptych-see.llm"], "num_replicas": 3}
    (llm,) = [document for document in documents(args) if with_(document, "llm")]
    assert filled([llm], {(llm["name"], "llm"): 7}) == [llm] == bare([llm])
    assert llm["deployments"][0]["num_replicas"] == 3
