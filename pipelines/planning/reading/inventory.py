"""`cluster.yaml`: which devices there are.

Decides what may be said of them, strictly, and what is known without saying: a device's memory, from its datasheet. What a running cluster
says of itself is in `pipelines/cluster/state/inventory.py`; both end in the same values.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from pipelines.planning.fleet import GIB, Device
from pipelines.settings.config_file import refused, told
from pipelines.settings.schema.strict import Strict
from stages.contract.errors import ConfigurationError
from stages.profiles.datasheets import datasheet_of


class DeviceConfig(Strict):
    """A type of device: so many, so many to a node. `device`: as profiles and datasheets call it; left out, as the inventory does. Ray
    finds it by `accelerator_type`, `label_selector` or `resources`; a GPU with none of them by the inventory's name for it as its
    accelerator type. `gpu: false`: nodes without GPUs, each counts as one."""

    count: int = Field(ge=0)
    device: str | None = None
    gpu: bool = True
    per_node: int = Field(1, ge=1, description="devices on one node")
    cpus_per_node: float = Field(8, gt=0)
    memory_gib: float | None = Field(None, gt=0, description="of one device; None: the datasheet's")
    price_per_hour: float | None = Field(None, ge=0, description="of one device")
    accelerator_type: str | None = None
    label_selector: dict[str, str] = {}
    resources: dict[str, float] = {}

    @model_validator(mode="after")
    def nodes_without_gpus_are_devices(self) -> "DeviceConfig":
        if not self.gpu and self.per_node != 1:
            raise ValueError(f"per_node {self.per_node}: a node without GPUs is one device")
        if not self.gpu and self.accelerator_type is not None:
            raise ValueError("accelerator_type goes with GPUs; a node without is found by label_selector or resources")
        return self


class InventoryConfig(Strict):
    """By a name for each type, which names of pools end in."""

    devices: dict[str, DeviceConfig] = Field(min_length=1)


def read_inventory(path: Path) -> tuple[Device, ...]:
    """In the order of their names. Raises `ConfigurationError`."""
    return inventory(mapping_of(path), str(path))


def inventory(given: Mapping[str, Any], where: str) -> tuple[Device, ...]:
    try:
        config = InventoryConfig.model_validate(given)
    except ValidationError as error:
        raise refused([f"{where}: {line}" for line in told(error)]) from None
    return tuple(_device(name, each, where) for name, each in sorted(config.devices.items()))


def _device(name: str, given: DeviceConfig, where: str) -> Device:
    model = given.device or name
    sheet = datasheet_of(model)
    if given.memory_gib is None and sheet is None:
        raise ConfigurationError(f"{where}: devices.{name}: no datasheet of {model!r} is known; give its memory_gib")
    found_by: dict[str, object] = {
        key: value for key in ("accelerator_type", "label_selector", "resources") if (value := getattr(given, key))
    }
    return Device(
        name=name,
        count=given.count,
        memory_bytes=int(given.memory_gib * GIB if given.memory_gib is not None else sheet.memory_bytes if sheet else 0),
        model=model,
        per_node=given.per_node,
        cpus_per_node=given.cpus_per_node,
        price_per_hour=given.price_per_hour,
        is_gpu=given.gpu,
        found_by=found_by or ({"accelerator_type": name} if given.gpu else {}),
    )


def mapping_of(path: Path) -> Mapping[str, Any]:
    """A YAML file that holds settings. Raises `ConfigurationError`."""
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigurationError(f"{path}: not YAML") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: holds no settings")
    return {str(key): value for key, value in document.items()}
