"""`triptych profile`: how fast this machine runs the stages of a configuration, into a file that planners, routers and simulators read.

Decides which stages are measured, each loaded as a replica loads it and let go before the next, and what is noted of the machine. How a
stage is measured is `stages/measuring/`; what becomes of it, `stages/profiles/`.
"""

import datetime
import gc
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipelines.commands.console import DEFAULT_CONFIG, ConfigPath, errors, shown
from pipelines.settings.config_file import load
from pipelines.settings.schema.config import AppConfig, TextToImageModel
from pipelines.settings.serve.specs import stage_specs
from stages.contract.errors import ConfigurationError
from stages.device.cores import available_cores
from stages.device.device_name import device_name
from stages.device.openmp import limit_threads
from stages.host.kinds.loading import make_ready
from stages.host.kinds.registry import StageSpec, memory_needs
from stages.host.kinds.registry import load as load_stage
from stages.measuring.measure import measured
from stages.measuring.samples import samples_of
from stages.profiles.profile import StageProfile
from stages.profiles.profile_files import Measured, read_profile_file, write_profile_file

LIBRARIES = ("triptych", "torch", "transformers", "diffusers", "open-clip-torch")


def profile(
    out: Annotated[
        Path, typer.Option(help="where the profiles go (.json); those in it of other stages, devices and dtypes stay")
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    stage: Annotated[list[str] | None, typer.Option(help="MODEL.PART; left out: all of them")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="for each number of rows and each amount")] = 2.0,
) -> None:
    """Measures how fast this machine runs a configuration's stages, and writes profiles."""
    console = Console()
    with errors(console):
        app = load(config).app
        specs = _chosen(app, stage or ())
        limit_threads(available_cores())
        make_ready(specs)
        known = {_key(one): one for one in (read_profile_file(out) if out.exists() else ())}
        for spec in specs:
            with console.status(f"{spec.name}: {spec.source}"):
                found = profiled(spec, _size(app, spec.name), seconds)
            known[_key(found)] = found
            for line in _told(found):
                console.print(line, soft_wrap=True, highlight=False)
            write_profile_file(out, known.values(), measured_here())


def _chosen(app: AppConfig, names: Sequence[str]) -> list[StageSpec]:
    specs = stage_specs(app)
    unknown = [name for name in names if name not in specs]
    if unknown:
        raise ConfigurationError(f"--stage: {unknown[0]!r} is not one of {', '.join(specs)}")
    return [specs[name] for name in names] if names else list(specs.values())


def _size(app: AppConfig, stage: str) -> tuple[int, int] | None:
    """At which a painter paints; None: at what its checkpoint says, or it is none."""
    model = app.models[stage.rpartition(".")[0]]
    if not isinstance(model, TextToImageModel) or not model.sizes:
        return None
    width, _, height = model.sizes[0].partition("x")
    return int(width), int(height)


def profiled(spec: StageSpec, size: tuple[int, int] | None, seconds: float) -> StageProfile:
    """`size`: of what a painter paints (None: its checkpoint's own); `seconds`: for each number of rows and each amount."""
    samples = list(samples_of(spec, size))  # what makes its inputs is loaded and gone before it
    gc.collect()
    began = time.perf_counter()
    loaded = load_stage(spec)
    load_s = time.perf_counter() - began
    points, row_bytes = measured(loaded.stage, samples, seconds)
    weights_bytes, slot_bytes = memory_needs(spec)
    return StageProfile(
        stage=spec.name,
        kind=spec.kind,
        loader=spec.loader,
        fingerprint=spec.whole(),
        source=spec.source.public_name(),
        device=device_name(loaded.stage.device),
        dtype=loaded.dtype,
        points=points,
        weights_bytes=weights_bytes,
        row_bytes=row_bytes + slot_bytes,
        load_s=round(load_s, 2),
    )


def _key(profile: StageProfile) -> tuple[str, str, str]:
    return profile.stage, profile.device, profile.dtype


def _told(profile: StageProfile) -> Iterator[str]:
    weights = f"{profile.weights_bytes / 2**20:,.0f} MiB of weights, {profile.row_bytes / 2**20:,.1f} MiB a row"
    yield f"[bold]{shown(profile.stage)}[/bold] on {shown(profile.device)} in {profile.dtype}: {weights}, loaded in {profile.load_s:g} s"
    for point in profile.points:
        spread = f"{100 * point.spread:.0f} %"
        yield f"  {point.rows:4} rows  {point.amount:10,.0f}  {1000 * point.seconds:10.2f} ms  (middle half within {spread})"


def measured_here() -> Measured:
    """What a file of profiles says of where they were measured."""
    return Measured(
        machine=f"{platform.system()} {platform.machine()}",
        num_cpus=available_cores(),
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"python": platform.python_version(), **{name: found for name in LIBRARIES if (found := _version(name))}},
    )


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
