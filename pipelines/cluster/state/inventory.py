"""Which devices a running Ray cluster has.

Decides what is one type: GPUs of one accelerator type, or nodes without GPUs that have the same labels. What is planned for them is
`pipelines/planning/`, which knows no Ray.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.planning.fleet import Device
from stages.contract.errors import ConfigurationError
from stages.profiles.datasheets import datasheet_of

RAYS_OWN = "ray.io/"
ACCELERATOR = "accelerator_type:"
CPU = "cpu"


def running_devices(address: str) -> tuple[Device, ...]:
    """Raises `ConfigurationError` where there is no cluster, or one with devices that nothing is known of."""
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        try:
            ray.init(address=address, logging_level="error", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigurationError(f"no Ray cluster at {address}: {error}") from None
    try:
        return devices_of(ray.nodes())
    finally:
        if not was_connected:
            ray.shutdown()


def devices_of(nodes: Sequence[Mapping[str, Any]]) -> tuple[Device, ...]:
    """`nodes`: as `ray.nodes()` tells them. In the order of the types' names."""
    alike: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes:
        if node.get("Alive"):
            alike.setdefault(_type_of(node), []).append(node)
    return tuple(_device(name, alike[name]) for name in sorted(alike))


def _type_of(node: Mapping[str, Any]) -> str:
    accelerators = [name.removeprefix(ACCELERATOR) for name in node["Resources"] if name.startswith(ACCELERATOR)]
    if node["Resources"].get("GPU", 0) >= 1:
        if not accelerators:
            raise ConfigurationError(
                f"node {node.get('NodeManagerAddress', '?')} has GPUs whose type Ray doesn't know; write an inventory (--inventory FILE)"
            )
        return accelerators[0]
    return "-".join((CPU, *_labels(node).values()))


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    """Those that somebody gave it."""
    given = node.get("Labels") or {}
    return {name: given[name] for name in sorted(given) if not name.startswith(RAYS_OWN)}


def _device(name: str, nodes: Sequence[Mapping[str, Any]]) -> Device:
    """Where nodes differ, the least of them counts."""
    gpus = [int(node["Resources"].get("GPU", 0)) for node in nodes]
    cpus = [float(node["Resources"].get("CPU", 0)) for node in nodes]
    if not gpus[0]:
        labels = _labels(nodes[0])
        memory = min(int(node["Resources"].get("memory", 0)) for node in nodes)
        found_by: Mapping[str, object] = {"label_selector": dict(labels)} if labels else {}
        return Device(name, len(nodes), memory, CPU, cpus_per_node=min(cpus), is_gpu=False, found_by=found_by)
    sheet = datasheet_of(name)
    if sheet is None:
        raise ConfigurationError(
            f"no datasheet of {name!r} is known; write an inventory (--inventory FILE) with its memory_gib"
        )
    per_node = max(gpus)
    return Device(
        name,
        sum(gpus),
        int(sheet.memory_bytes),
        sheet.name,
        per_node,
        per_node * min(each / count for each, count in zip(cpus, gpus, strict=True)),
        found_by={"accelerator_type": name},
    )
