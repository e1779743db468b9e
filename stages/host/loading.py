"""From a stage's description to the stage in a host, the same in every process that hosts any. Decides that what is named is what was
loaded: files that change meanwhile are refused."""

from stages.contract.errors import ConfigurationError
from stages.host.host import StageHost
from stages.host.registry import LoadedStage, StageSpec, load


def load_into(host: StageHost, spec: StageSpec) -> LoadedStage:
    """Raises `ConfigurationError`."""
    contents = spec.contents()
    loaded = load(spec)
    if spec.contents() != contents:
        raise ConfigurationError(f"{spec.name}: the files of {spec.source} changed while they were loaded; start again")
    host.add(
        spec.name,
        loaded.stage,
        batch=spec.batch,
        queue=spec.queue,
        dtype=loaded.dtype,
        max_step_s=spec.max_step_s,
        contents=contents,
    )
    return loaded
