"""Whether stages can be had where they are placed by those that need their results.

Pure. Decides which placements are refused: deployments must not wait for one another in a circle, and none waits for the HTTP surface's
own replica, which waits for all. Which stage needs which is `stages/host/nesting.py`.
"""

from collections.abc import Iterator

from pipelines.settings.config import INGRESS, AppConfig
from stages.host.nesting import cycle, needed_by


def homes(config: AppConfig) -> dict[str, str]:
    """Stage -> the deployment that hosts it."""
    own = dict.fromkeys(config.ingress.stages, INGRESS)
    return own | {stage: name for name, placed in config.placement().items() for stage in placed.stages}


def needed_elsewhere(deployment: str, config: AppConfig) -> dict[str, str]:
    """Stages that a deployment's own stages need and that live in another -> that deployment."""
    where = homes(config)
    needed = (other for stage, home in where.items() if home == deployment for other in needed_by(stage, where))
    return {stage: where[stage] for stage in needed if where[stage] != deployment}


def placement_faults(config: AppConfig) -> Iterator[str]:
    """Placements that can't work, a line each."""
    where = homes(config)
    for stage, home in where.items():
        for other in needed_by(stage, where):
            if where[other] == INGRESS and home != INGRESS:
                yield (
                    f"ingress.stages: {other} lives with the HTTP surface, which waits for {stage} in deployment {home}, which "
                    f"would wait for {other}; give {other} a deployment, or put {stage} into ingress.stages, too"
                )
    circle = cycle({name: placed.stages for name, placed in config.placement().items()})
    if circle:
        yield (
            f"deployments: {' -> '.join(circle)} wait for each other's results in a circle, and could fill up with requests that wait; "
            "host the stages of one model together, or each in a deployment of its own"
        )
