"""The plan as a `serve_config.yaml`: another file's, with the plan's pools for its deployments.

Decides what each pool's deployment says, and changes no other line of the file, its comments included, so that two plans can be compared.
What a deployment said of the stage before, and the plan doesn't decide (its threads, its health checks), its pools go on saying.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pipelines.planning.fleet import Device
from pipelines.planning.plan import Plan, PlannedPool, PlannedStage
from pipelines.settings.config_file import IMPORT_PATH, parse
from pipelines.settings.derived import batch_items
from pipelines.settings.schema.config import AppConfig, LlmConfig
from stages.contract.errors import ConfigurationError

KEPT = (
    "torch_threads",
    "max_queued_requests",
    "health_check_period_s",
    "health_check_timeout_s",
    "graceful_shutdown_timeout_s",
)
FOR_STAGES = 0.9  # of a node's CPUs; the rest is for the HTTP surface and what watches
GPU_CPUS = 1.0  # of a replica that computes on a GPU, where the node has as many
FLOW_UNDER = 100  # characters: a value that fits is written on one line


def deployments(plan: Plan, devices: Sequence[Device], config: AppConfig) -> Mapping[str, Mapping[str, Any]]:
    """By the pool's name, what `deployments` says of it."""
    by_name = {device.name: device for device in devices}
    full = {use.device for use in plan.devices if use.used == use.count}
    return {pool.name: _deployment(pool, by_name[pool.device], config, pool.device in full) for pool in plan.pools}


def _deployment(pool: PlannedPool, device: Device, config: AppConfig, is_full: bool) -> Mapping[str, Any]:
    stages = [each.stage for each in pool.stages]
    before = next((given for given in config.deployments.values() if set(stages) & set(given.stages)), None)
    kept = before.model_dump(exclude_defaults=True) if before is not None else {}
    overrides = {each.stage: found for each in pool.stages if (found := _overrides(each, config))}
    return {
        "stages": stages,
        "num_replicas": pool.replicas,
        "ray_actor_options": _actor_options(pool, device),
        **({"overrides": overrides} if overrides else {}),
        **({"max_surge_percent": 0} if is_full else {}),  # there is no device for one more, even for a while
        **{name: kept[name] for name in KEPT if name in kept},
    }


def _actor_options(pool: PlannedPool, device: Device) -> Mapping[str, Any]:
    share = FOR_STAGES * pool.fraction * device.cpus_per_node / device.per_node
    cpus = math.floor(100 * (min(share, GPU_CPUS) if device.is_gpu else share)) / 100
    gpus = {"num_gpus": int(pool.fraction) if pool.fraction == 1 else pool.fraction} if device.is_gpu else {}
    resources = {"resources": found} if isinstance(found := device.found_by.get("resources"), Mapping) else {}
    found_by = {name: value for name, value in device.found_by.items() if name != "resources"}
    return {"num_cpus": cpus, **gpus, **found_by, **resources}


def _overrides(planned: PlannedStage, config: AppConfig) -> Mapping[str, Any]:
    part = config.parts()[planned.stage]
    found: dict[str, Any] = {}
    if planned.dtype not in ("auto", part.dtype):
        found["dtype"] = planned.dtype
    if planned.rows != batch_items(part):
        found |= {"num_slots": planned.rows} if isinstance(part, LlmConfig) else {"batch": {"max_items": planned.rows}}
    return found


def planned_file(text: str, where: str, plan: Plan, devices: Sequence[Device], config: AppConfig) -> str:
    """`text`: the base, a Ray Serve config with Triptych's application. Raises `ConfigurationError` where the result would not be sound."""
    written = _spliced(text, where, deployments(plan, devices, config))
    entries = yaml.safe_load(written)["applications"]
    parse(next(entry for entry in entries if entry["import_path"] == IMPORT_PATH)["args"])
    return written


def _spliced(text: str, where: str, planned: Mapping[str, Mapping[str, Any]]) -> str:
    args = _args(yaml.compose(text), where)
    first = args.value[0][0]
    indent = first.start_mark.column
    for key, value in args.value:
        if key.value == "deployments":
            begins, ends = key.start_mark.index, _end(text, value.end_mark.index, key.start_mark.column)
            return text[:begins] + _block(planned, indent) + text[ends:]
    begins = first.start_mark.index
    return text[:begins] + _block(planned, indent) + "\n" + " " * indent + text[begins:]


def _args(document: yaml.Node | None, where: str) -> yaml.MappingNode:
    applications = _entry(document, "applications")
    for entry in applications.value if isinstance(applications, yaml.SequenceNode) else ():
        path, args = _entry(entry, "import_path"), _entry(entry, "args")
        if (
            isinstance(path, yaml.ScalarNode)
            and path.value == IMPORT_PATH
            and isinstance(args, yaml.MappingNode)
            and not args.flow_style
        ):
            return args
    raise ConfigurationError(
        f"{where}: the application with import_path {IMPORT_PATH} has no args, one setting to a line, to plan for"
    )


def _entry(node: yaml.Node | None, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == name), None)


def _end(text: str, end: int, indent: int) -> int:
    """Where a block ends: before the comments and blank lines that follow it and stand no further in than its key."""
    lines = text[:end].split("\n")
    is_partial = bool(lines[-1].strip())
    rest = len(lines[-1]) if not is_partial else 0
    if is_partial:
        return end
    del lines[-1]
    while lines and (not lines[-1].strip() or (lines[-1].lstrip().startswith("#") and _indent(lines[-1]) <= indent)):
        rest += len(lines.pop()) + 1
    return end - rest - 1


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(planned: Mapping[str, Mapping[str, Any]], indent: int) -> str:
    """A person's YAML: a line for a setting, what is short within braces."""
    lines = ["deployments:   # written by triptych plan"]
    for name, settings in planned.items():
        lines.append(f"  {name}:")
        lines += [line for setting, value in settings.items() for line in _setting(setting, value, 4)]
    return f"\n{' ' * indent}".join(lines)


def _setting(name: str, value: Any, indent: int) -> Sequence[str]:
    flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip().removesuffix("\n...")
    if len(flow) <= FLOW_UNDER or not isinstance(value, Mapping):
        return [f"{' ' * indent}{name}: {flow}"]
    return [f"{' ' * indent}{name}:", *(line for key, each in value.items() for line in _setting(key, each, indent + 2))]
