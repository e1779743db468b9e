"""From profiles to what the planner knows of a stage on each type of device.

Decides which profile counts (the stage's own weights', in a dtype that the configuration allows, the quickest of several) and how large its
batches may become: as large as the configuration says, or, where that says nothing, as was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.planning.fleet import Device, Fleet, Measured, RequestClass
from pipelines.planning.solving.limits import heaviest
from pipelines.settings.derived import batch_items
from pipelines.settings.schema.config import AppConfig, LlmConfig, PartConfig
from stages.contract.work import Work
from stages.profiles.datasheets import datasheet_of
from stages.profiles.profile import StageProfile
from stages.profiles.profile_files import Profiles


def fleet(config: AppConfig, devices: tuple[Device, ...], profiles: Profiles, classes: tuple[RequestClass, ...]) -> Fleet:
    """Of all stages that live outside of the HTTP surface's process, each on every type of device of which anything is known."""
    stages = tuple(stage for stage in config.stage_names() if stage not in config.ingress.stages)
    beside, parts = heaviest(classes), config.parts()
    known = _Known(profiles)
    measured = {
        (stage, device.name): found
        for stage in stages
        for device in devices
        if (found := known.measured(stage, parts[stage], device, beside.get(stage))) is not None
    }
    return Fleet(stages, devices, measured, classes, known.why_not)


@dataclass(frozen=True, slots=True)
class _Known:
    profiles: Profiles
    why_not: dict[tuple[str, str], str] = field(default_factory=dict)

    def measured(self, stage: str, part: PartConfig, device: Device, work: Work | None) -> Measured | None:
        found = list(self._profiles(stage, part, device))
        if not found:
            self.why_not[stage, device.name] = f"no profile of it on {device.model}, and none to reckon one from"
            return None
        usual = work or Work(found[0].points[0].amount)
        return max((_measured(profile, part) for profile in found), key=lambda each: each.speed.rate(usual))

    def _profiles(self, stage: str, part: PartConfig, device: Device) -> Sequence[StageProfile]:
        """In the dtypes that may be used; where any was measured on the device itself, only those."""
        fingerprint = part.contents.whole if part.contents is not None else None
        if not any(each.fingerprint == fingerprint for each in self.profiles.known):
            fingerprint = None
        own = [
            each
            for each in self.profiles.known
            if each.fingerprint == fingerprint or (fingerprint is None and each.stage == stage)
        ]
        dtypes = [part.dtype] if part.dtype != "auto" else list(dict.fromkeys(each.dtype for each in own))
        model = next((each.device for each in own if _is_same(each.device, device.model)), device.model)
        found = [self.profiles.of(stage, model, dtype, fingerprint) for dtype in dtypes]
        known = [each for each in found if each is not None]
        return [each for each in known if not each.is_estimate] or known


def _is_same(one: str, other: str) -> bool:
    """A device has several names: torch's, and Ray's."""
    sheet = datasheet_of(one)
    return one == other or (sheet is not None and sheet is datasheet_of(other))


def _measured(profile: StageProfile, part: PartConfig) -> Measured:
    rows = max(point.rows for point in profile.points)
    if part.batch.max_items is not None or (isinstance(part, LlmConfig) and "num_slots" in part.model_fields_set):
        rows = batch_items(part)
    return Measured(profile.speed(rows, part.batch.max_cost), profile.weights_bytes, profile.row_bytes, profile.dtype)
