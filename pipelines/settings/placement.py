"""Whether stages can be had where they are placed by those that need their results.

Pure. Decides which placements are refused: deployments must not wait for one another in a circle, and none waits for the HTTP surface's
own replica, which waits for all. Which stage needs which is `stages/host/kinds/nesting.py`.
"""

from collections.abc import Iterator

from pipelines.settings.schema.config import INGRESS, AppConfig
from stages.host.kinds.nesting import cycle, needed_by


def homes(config: AppConfig) -> dict[str, tuple[str, ...]]:
    """Stage -> the deployments that host it, in the order of the file."""
    where: dict[str, tuple[str, ...]] = dict.fromkeys(config.ingress.stages, (INGRESS,))
    for name, placed in config.placement().items():
        for stage in placed.stages:
            where[stage] = (*where.get(stage, ()), name)
    return where


def needed_elsewhere(deployment: str, config: AppConfig) -> dict[str, tuple[str, ...]]:
    """Stages that a deployment's own stages need and that it doesn't host itself -> the deployments that do."""
    where = homes(config)
    needed = (other for stage, hosts in where.items() if deployment in hosts for other in needed_by(stage, where))
    return {stage: where[stage] for stage in needed if deployment not in where[stage]}


def placement_faults(config: AppConfig) -> Iterator[str]:
    """Placements that can't work, a line each."""
    where = homes(config)
    for stage, hosts in where.items():
        for other in needed_by(stage, where):
            if where[other] == (INGRESS,) != hosts:
                yield (
                    f"ingress.stages: {other} lives with the HTTP surface, which waits for {stage} in deployment {hosts[0]}, which "
                    f"would wait for {other}; give {other} a deployment, or put {stage} into ingress.stages, too"
                )
    circle = cycle({name: placed.stages for name, placed in config.placement().items()})
    if circle:
        yield (
            f"deployments: {' -> '.join(circle)} wait for each other's results in a circle, and could fill up with requests that wait; "
            "host the stages of one model together, or each in a deployment of its own"
        )
