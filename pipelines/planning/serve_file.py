"""The plan as a `serve_config.yaml`: another file's, with the plan's pools for its deployments.

Decides what each pool's deployment says, and changes no other line of the file, its comments included, so that two plans can be compared.
What a deployment said of the stage before, and the plan doesn't decide (its threads, its health checks), its pools go on saying.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.planning.bounds import Bounds, bounds, budget, cpus
from pipelines.planning.fleet import Device
from pipelines.planning.plan import Plan, PlannedPool, PlannedStage
from pipelines.planning.splicing import with_block, with_value
from pipelines.settings.config_file import IMPORT_PATH, parse
from pipelines.settings.derived import batch_items
from pipelines.settings.schema.config import AppConfig, LlmConfig

KEPT = (
    "torch_threads",
    "max_queued_requests",
    "health_check_period_s",
    "health_check_timeout_s",
    "graceful_shutdown_timeout_s",
)
SCALED_AS_BEFORE = (
    "upscale_delay_s",
    "downscale_delay_s",
    "downscale_to_zero_delay_s",
    "weight",
)
GPU_CPUS = 1.0  # of a replica that computes on a GPU, where the node has as many


def deployments(
    plan: Plan, devices: Sequence[Device], config: AppConfig, replicas: int = 1
) -> Mapping[str, Mapping[str, Any]]:
    """By the pool's name, what `deployments` says of it. `replicas`: of each stage there are at least so many, whatever is scaled."""
    by_name = {device.name: device for device in devices}
    full = {use.device for use in plan.devices if use.used == use.count}
    may = bounds(plan, devices, budget(plan, devices, config.scaling.budget), replicas)
    return {
        pool.name: _deployment(pool, by_name[pool.device], config, may[pool.name], pool.device in full) for pool in plan.pools
    }


def _deployment(pool: PlannedPool, device: Device, config: AppConfig, may: Bounds, is_full: bool) -> Mapping[str, Any]:
    stages = [each.stage for each in pool.stages]
    before = next((given for given in config.deployments.values() if set(stages) & set(given.stages)), None)
    kept = before.model_dump(exclude_defaults=True) if before is not None else {}
    overrides = {each.stage: found for each in pool.stages if (found := _overrides(each, config))}
    return {
        "stages": stages,
        **_numbers(pool, may, kept.get("autoscaling_config", {})),
        "ray_actor_options": _actor_options(pool, device),
        **({"overrides": overrides} if overrides else {}),
        **({"max_surge_percent": 0} if is_full else {}),  # there is no device for one more, even for a while
        **{name: kept[name] for name in KEPT if name in kept},
    }


def _numbers(pool: PlannedPool, may: Bounds, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """It begins with what was planned. `before`: how the stage's deployment was scaled."""
    if may.least == may.most:
        return {"num_replicas": pool.replicas}
    numbers = {"min_replicas": may.least, "max_replicas": may.most, "initial_replicas": pool.replicas}
    return {"autoscaling_config": numbers | {name: before[name] for name in SCALED_AS_BEFORE if name in before}}


def _actor_options(pool: PlannedPool, device: Device) -> Mapping[str, Any]:
    share = cpus(device, pool.fraction)
    gpus = {"num_gpus": int(pool.fraction) if pool.fraction == 1 else pool.fraction} if device.is_gpu else {}
    resources = {"resources": found} if isinstance(found := device.found_by.get("resources"), Mapping) else {}
    found_by = {name: value for name, value in device.found_by.items() if name != "resources"}
    return {"num_cpus": min(share, GPU_CPUS) if device.is_gpu else share, **gpus, **found_by, **resources}


def _overrides(planned: PlannedStage, config: AppConfig) -> Mapping[str, Any]:
    part = config.parts()[planned.stage]
    found: dict[str, Any] = {}
    if planned.dtype not in ("auto", part.dtype):
        found["dtype"] = planned.dtype
    if planned.rows != batch_items(part):
        found |= {"num_slots": planned.rows} if isinstance(part, LlmConfig) else {"batch": {"max_items": planned.rows}}
    return found


def planned_file(text: str, where: str, plan: Plan, devices: Sequence[Device], config: AppConfig, replicas: int = 1) -> str:
    """`text`: the base, a Ray Serve config with Triptych's application; `replicas`: as of `deployments`. What was planned is what a budget
    of the same devices may be scaled to, so it is written beside. Raises `ConfigurationError` where the result would not be sound."""
    planned = deployments(plan, devices, config, replicas)
    written = with_block(text, where, "deployments", planned, "written by triptych plan")
    if any("autoscaling_config" in each for each in planned.values()):
        limits = {name: _number(count) for name, count in budget(plan, devices, config.scaling.budget).items()}
        written = with_value(written, where, ("scaling", "budget", "devices"), limits, before="deployments")
    entries = yaml.safe_load(written)["applications"]
    parse(next(entry for entry in entries if entry["import_path"] == IMPORT_PATH)["args"])
    return written


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else round(value, 2)
