"""Which pools a stage has: the deployments that host it, each with devices, a dtype and bounds of its own; and what to know of them.

Pure; knows no replicas. Which of them runs an item is `pipelines/routing/`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipelines.settings.derived import batch_items, capacity
from pipelines.settings.schema.config import AppConfig, PartConfig
from pipelines.settings.schema.deployments import DeploymentConfig

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Pool:
    """Of one stage. `part`: its settings there."""

    deployment: str
    placed: DeploymentConfig
    part: PartConfig
    num_gpus: float

    @property
    def where(self) -> str:
        """What its replicas run on, as far as the configuration says it."""
        options = self.placed.ray_actor_options
        wanted = [f"{name}={value}" for name, value in (*options.label_selector.items(), *options.resources.items())]
        kind = options.accelerator_type or ("a GPU" if self.num_gpus else "the CPU")
        return ", ".join([f"{self.num_gpus:g} x {kind}" if self.num_gpus else kind, *wanted])

    @property
    def device(self) -> tuple[object, ...]:
        """Alike where what "auto" comes to is surely alike."""
        options = self.placed.ray_actor_options
        return self.part.device, bool(self.num_gpus), options.accelerator_type, *options.label_selector.items()


def pools_of(config: AppConfig) -> Mapping[str, Sequence[Pool]]:
    """Stage -> its pools, in the order of the file; of those that live with the HTTP surface none."""
    found: dict[str, list[Pool]] = {}
    for name, placed in config.placement().items():
        num_gpus = capacity(placed, config).num_gpus
        for stage, part in config.hosted(placed).items():
            found.setdefault(stage, []).append(Pool(name, placed, part, num_gpus))
    return found


def described(config: AppConfig) -> Iterator[str]:
    """A line for each pool of each stage that has several."""
    for stage, pools in pools_of(config).items():
        if len(pools) > 1:
            yield from (
                f"{stage} in {pool.deployment}: on {pool.where}, dtype {pool.part.dtype}, {batch_items(pool.part)} at a time"
                for pool in pools
            )


def unlike(config: AppConfig) -> Iterator[str]:
    """What its user should know where the pools of a stage compute, or may compute, in unlike dtypes, a line each."""
    for stage, pools in pools_of(config).items():
        model, _, kind = stage.rpartition(".")
        dtypes = {pool.part.dtype for pool in pools}
        if dtypes == {AUTO} and len({pool.device for pool in pools}) > 1:
            how = "dtype auto, which may come to one on this device and to another on that"
        elif len(dtypes) > 1:
            how = ", ".join(f"{pool.part.dtype} in {pool.deployment}" for pool in pools)
        else:
            continue
        yield (
            f"{stage} has pools of unlike dtypes ({how}): they find nothing of what the others remember, and the same request, seed "
            f"included, comes out a little different. Set models.{model}.{kind}.dtype, and no other in deployments, where that matters"
        )
