"""Profiles in files: what `triptych profile` writes, and everyone reads who must know a device's speed.

Decides the JSON's form (strict: a field that is unknown, or missing, is an error that names it), and which profile is a stage's. Knows
no stage and no device.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.contract.errors import ConfigurationError
from stages.profiles.datasheets import Datasheet, datasheet_of
from stages.profiles.estimate import estimated
from stages.profiles.profile import Point, StageProfile

FORMAT = 1
Whole = Annotated[int, Ge(0)]
Seconds = Annotated[float, Gt(0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Point(_Strict):
    rows: Annotated[int, Ge(1)]
    amount: Annotated[float, Gt(0)]
    seconds: Seconds
    spread: Annotated[float, Ge(0)] = 0.0


class _Profile(_Strict):
    stage: str
    kind: str
    loader: str
    fingerprint: str
    source: str = ""
    device: str
    dtype: str
    points: list[_Point] = Field(min_length=1)
    weights_bytes: Whole
    row_bytes: Whole
    load_s: Annotated[float, Ge(0)] = 0.0
    is_estimate: bool = False


class Measured(_Strict):
    """Where and with what a file's profiles were measured. `day`: YYYY-MM-DD."""

    machine: str
    num_cpus: int
    day: str
    versions: dict[str, str]


class _File(_Strict):
    format: Literal[1]
    measured: Measured
    profiles: list[_Profile]


@dataclass(frozen=True, slots=True)
class Profiles:
    """All that are known. `files`: where they are from, for messages."""

    known: tuple[StageProfile, ...] = ()
    files: tuple[str, ...] = ()

    def measured(self, fingerprint: str, device: str, dtype: str) -> StageProfile | None:
        """The stage's own, on that very device; the latest read where there are several."""
        matching = (
            one for one in reversed(self.known) if (one.fingerprint, one.device, one.dtype) == (fingerprint, device, dtype)
        )
        return next(matching, None)

    def of(self, stage: str, device: str, dtype: str, fingerprint: str | None = None) -> StageProfile | None:
        """The stage's (by its `fingerprint`, or where that is not known by its name, MODEL.PART) on that device; else an estimate from
        another device's, where the datasheets of both are known: of the one whose speed is nearest. None: nobody knows."""
        own = [one for one in self.known if (one.stage == stage if fingerprint is None else one.fingerprint == fingerprint)]
        exact = [one for one in own if (one.device, one.dtype) == (device, dtype)]
        if exact:
            return exact[-1]
        to = datasheet_of(device)
        return None if to is None else _nearest([one for one in own if not one.is_estimate], to, dtype)

    def devices(self) -> tuple[str, ...]:
        """That anything was measured on."""
        return tuple(dict.fromkeys(one.device for one in self.known))


def _nearest(profiles: Iterable[StageProfile], to: Datasheet, dtype: str) -> StageProfile | None:
    known = [(one, sheet) for one in profiles if (sheet := datasheet_of(one.device)) is not None]
    reckoned = [
        (abs(to.bytes_per_s / sheet.bytes_per_s - 1), one.dtype != dtype, index, estimate)
        for index, (one, sheet) in enumerate(known)
        if (estimate := estimated(one, sheet, to, dtype)) is not None
    ]
    return min(reckoned)[-1] if reckoned else None


def read_profiles(*paths: Path) -> Profiles:
    """Of files (`*.json`), and of folders all such files in them; a folder that isn't there holds none. Raises `ConfigurationError`."""
    files = [file for path in paths for file in ([path] if path.suffix == ".json" else sorted(path.glob("*.json")))]
    return Profiles(tuple(profile for file in files for profile in read_profile_file(file)), tuple(map(str, files)))


def read_profile_file(path: Path) -> Sequence[StageProfile]:
    """Raises `ConfigurationError` that names the file and the field."""
    try:
        file = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigurationError(f"{path}: {where}: {first['msg']} (a profile is what `triptych profile` writes)") from error
    return [_profile(one) for one in file.profiles]


def write_profile_file(path: Path, profiles: Iterable[StageProfile], measured: Measured) -> None:
    """In an order of its own, so that files can be compared."""
    ordered = sorted(profiles, key=lambda one: (one.stage, one.device, one.dtype))
    text = json.dumps(
        {"format": FORMAT, "measured": measured.model_dump(), "profiles": [_told(one) for one in ordered]}, indent=1
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def _profile(told: _Profile) -> StageProfile:
    given = told.model_dump() | {"points": tuple(Point(**one.model_dump()) for one in told.points)}
    return StageProfile(**given)


def _told(profile: StageProfile) -> dict[str, object]:
    points = [_Point(rows=one.rows, amount=one.amount, seconds=one.seconds, spread=one.spread) for one in profile.points]
    fields = {name: getattr(profile, name) for name in _Profile.model_fields if name != "points"}
    return _Profile(**fields, points=points).model_dump()
