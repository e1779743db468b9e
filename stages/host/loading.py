"""From a stage's description to the stage in a host, the same in every process that hosts any. Decides nothing else."""

from stages.host.host import StageHost
from stages.host.registry import LoadedStage, StageSpec, load


def load_into(host: StageHost, spec: StageSpec) -> LoadedStage:
    """Raises `ConfigurationError`."""
    loaded = load(spec)
    host.add(
        spec.name,
        loaded.stage,
        batch=spec.batch,
        queue=spec.queue,
        dtype=loaded.dtype,
        max_step_s=spec.max_step_s,
        weights=spec.fingerprint() if hasattr(loaded.stage, "run") else "",
    )
    return loaded
