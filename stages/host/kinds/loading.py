"""From a stage's description to the stage in a host, the same in every process that hosts any. Decides that what is named is what was
loaded: files that change meanwhile are refused; and which profile tells how fast it is."""

from collections.abc import Sequence

from stages.contract.errors import ConfigurationError
from stages.device.device_name import device_name
from stages.device.onednn import keep_few_plans
from stages.engine.scheduling.learned_speed import MeasuredSteps
from stages.host.host import StageHost
from stages.host.kinds.registry import LoadedStage, StageSpec, load, sizes_vary
from stages.profiles.profile_files import Profiles


def load_into(host: StageHost, spec: StageSpec, profiles: Profiles = Profiles()) -> LoadedStage:
    """`profiles`: where one of this stage's on its device is, or of another device's that it can be reckoned from, its speed is known
    before it has done anything. Raises `ConfigurationError`."""
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
        measured=_measured(profiles, spec.name, device_name(loaded.stage.device), loaded.dtype, contents.whole),
    )
    return loaded


def make_ready(specs: Sequence[StageSpec]) -> None:
    """Before the first of them is loaded into this process, which has computed nothing yet, and will have no others. Raises
    `ConfigurationError`."""
    if sizes_vary(specs):
        keep_few_plans(max(spec.batch.max_items for spec in specs))


def _measured(profiles: Profiles, stage: str, device: str, dtype: str, fingerprint: str) -> MeasuredSteps | None:
    profile = profiles.of(stage, device, dtype, fingerprint)
    return None if profile is None else MeasuredSteps(profile.step_times, profile.is_estimate)
