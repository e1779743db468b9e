"""What the scaler is told: every deployment of stages, what a replica takes of the budget, and within which bounds it is scaled. And how
that goes with what Serve is told: Serve's own scaling sees one application, so where ours are several, the scaler sets their numbers.

Pure; knows no Ray. Decides that a number of replicas is no part of a scaled application's document (it would be set back by every change
of something else), and what it is when Serve is told of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from pipelines.settings.derived import Home, capacity
from pipelines.settings.schema.config import AppConfig, ImageTextModel, TextToImageModel
from pipelines.settings.schema.deployments import DeploymentConfig
from pipelines.settings.schema.orchestration import ScalingConfig
from pipelines.settings.schema.strict import Strict

SCALER = "scaler"
SCALER_BUILDER = "pipelines.cluster.scaling.scaler_deployment:scaler"
GPU, CPU = "gpu", "cpu"
Document = Mapping[str, Any]
Live = Mapping[tuple[str, str], int]
"""Replicas that there are to be now, by application and deployment."""


class ScaledPool(Strict):
    """One deployment. `after`: by stage, those whose items come there next. `device`: what the budget counts, `devices`: of them, a
    replica. `is_fixed`: its number isn't the scaler's to change; it takes its part of the budget."""

    deployment: str
    application: str
    stages: tuple[str, ...]
    after: dict[str, tuple[str, ...]] = {}
    device: str = CPU
    devices: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 1
    initial_replicas: int = 1
    is_fixed: bool = False
    items_per_replica: float = 1.0
    weight: float = 1.0
    up_after_s: float = 0.0
    down_after_s: float = 60.0
    to_zero_after_s: float | None = None


class ScalerSettings(Strict):
    """All that the scaler is told, which may change while it runs. `taken`: of the budget, by what is no pool of its own."""

    pools: tuple[ScaledPool, ...] = ()
    scaling: ScalingConfig = ScalingConfig()
    taken: dict[str, float] = Field({}, description="by device type")


class ScalerArgs(Strict):
    """`metrics`: the application with the metrics table, where the scaler hears of what replicas do."""

    metrics: str


def is_scaled(placed: DeploymentConfig) -> bool:
    return placed.autoscaling_config is not None


def scaler_settings(config: AppConfig, hosts: Mapping[str, str]) -> ScalerSettings:
    """`hosts`: deployment -> application. The same for the same deployments, in whatever order the file has them."""
    pools = tuple(_pool(name, placed, config, hosts[name]) for name, placed in sorted(config.placement().items()))
    device, devices = _takes(config.ingress, config)
    taken = {device: devices * config.ingress.num_replicas} if device != CPU else {}
    return ScalerSettings(pools=pools, scaling=config.scaling, taken=taken)


def budget_faults(config: AppConfig) -> Sequence[str]:
    """Where what must be there is more than the budget has, a line each."""
    devices, price = config.scaling.budget.devices or {}, config.scaling.budget.price_per_hour
    settings = scaler_settings(config, dict.fromkeys(config.placement(), ""))
    needed = dict(settings.taken)
    for pool in settings.pools:
        needed[pool.device] = needed.get(pool.device, 0.0) + pool.devices * pool.min_replicas
    found = [
        f"scaling.budget.devices.{device}: {devices[device]:g} has no room for what must be there, which is {count:g} (min_replicas, "
        "num_replicas); at least that"
        for device, count in needed.items()
        if device in devices and count > devices[device] + 1e-9
    ]
    cost = sum(config.scaling.prices.get(device, 0.0) * count for device, count in needed.items())
    if price is not None and cost > price + 1e-9:
        found.append(
            f"scaling.budget.price_per_hour: {price:g} doesn't pay for what must be there, which costs {cost:g}; at least that"
        )
    return found


def _pool(name: str, placed: DeploymentConfig, config: AppConfig, application: str) -> ScaledPool:
    device, devices = _takes(placed, config)
    follows = _follows(config)
    about = {
        "deployment": name,
        "application": application,
        "stages": placed.stages,
        "after": {stage: follows[stage] for stage in placed.stages if stage in follows},
        "device": device,
        "devices": devices,
    }
    scaling = placed.autoscaling_config
    if scaling is None:
        number = placed.num_replicas or 1
        fixed = {"min_replicas": number, "max_replicas": number, "initial_replicas": number, "is_fixed": True}
        return ScaledPool.model_validate(about | fixed)
    initial = scaling.initial_replicas if scaling.initial_replicas is not None else scaling.min_replicas
    bounds = {"min_replicas": scaling.min_replicas, "max_replicas": scaling.max_replicas, "initial_replicas": initial}
    asked = scaling.model_fields_set
    return ScaledPool(
        **about,
        **bounds,
        items_per_replica=capacity(placed, config).target_ongoing_requests,
        weight=scaling.weight,
        up_after_s=scaling.upscale_delay_s if "upscale_delay_s" in asked else 0.0,
        down_after_s=scaling.downscale_delay_s,
        to_zero_after_s=scaling.downscale_to_zero_delay_s,
    )


def _takes(home: Home, config: AppConfig) -> tuple[str, float]:
    """Of which device type how many, a replica."""
    gpus = capacity(home, config).num_gpus
    if gpus:
        return home.ray_actor_options.accelerator_type or GPU, gpus
    return CPU, home.ray_actor_options.num_cpus


def _follows(config: AppConfig) -> Mapping[str, tuple[str, ...]]:
    """Stage -> the stages whose items come there next."""
    found: dict[str, tuple[str, ...]] = {}
    for name, model in config.models.items():
        parts = model.parts()
        before: Mapping[str, tuple[str, ...]] = {}
        if isinstance(model, ImageTextModel):
            before = {"llm": ("vision_encoder",)}
        elif isinstance(model, TextToImageModel):
            before = {"denoiser": ("text_encoder", "vae_encoder"), "vae_decoder": ("denoiser",)}
        for part, earlier in before.items():
            found[f"{name}.{part}"] = tuple(f"{name}.{other}" for other in earlier if other in parts)
    return found


def bare(documents: Iterable[Document]) -> Sequence[Document]:
    """Without the numbers of scaled applications."""
    return [_bare(document) if document.get("external_scaler_enabled") else document for document in documents]


def _bare(document: Document) -> Document:
    deployments = [
        {key: value for key, value in given.items() if key != "num_replicas"} for given in document.get("deployments") or ()
    ]
    return {**document, "deployments": deployments}


def filled(documents: Iterable[Document], live: Live) -> Sequence[Document]:
    """With the numbers of scaled applications: as they are now; else as they are of the deployment that it takes the place of; else as it
    begins. Serve is told of no zero: there it begins one, which the scaler ends unless something waits for it."""
    documents = list(documents)
    begins = _beginnings(documents)
    return [_filled(document, live, begins) if document.get("external_scaler_enabled") else document for document in documents]


def _filled(document: Document, live: Live, begins: Mapping[str, int]) -> Document:
    deployments = []
    for given in document.get("deployments") or ():
        name = given["name"]
        earlier = max((count for (_, deployment), count in live.items() if deployment == name), default=begins.get(name, 1))
        count = live.get((document["name"], name), earlier)
        deployments.append({**given, "num_replicas": count} if count else given)
    return {**document, "deployments": deployments}


def _beginnings(documents: Sequence[Document]) -> Mapping[str, int]:
    """By deployment, as the scaler among the documents is told."""
    told = [given for document in documents for given in document.get("deployments") or () if given["name"] == SCALER]
    settings = [ScalerSettings.model_validate(given.get("user_config") or {}) for given in told]
    return {pool.deployment: pool.initial_replicas for each in settings for pool in each.pools}
