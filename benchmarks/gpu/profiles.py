"""Profiles of stages of real size on the device (`triptych profile`), beside those that the datasheets would have had anyone expect.

Decides which stages, and where they are kept: `profiles/`, a file for each kind of device.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.checkpoints import language_model, painter, seeing_model
from benchmarks.gpu.part import Part
from pipelines.commands.profile import measured_here, profiled
from stages.checkpoints.checkpoint import LoadOptions, Source
from stages.contract.limits import BatchLimits, QueueLimits
from stages.host.kinds.registry import StageSpec
from stages.llm.settings import LlmSettings
from stages.profiles.profile_files import write_profile_file

FILE = "profiles.json"


def run(part: Part) -> None:
    found = []
    size = (1024, 1024) if not part.quick else None
    for spec in _specs(part):
        with part.trying(spec.name):
            one = replace(profiled(spec, size, part.pick(1, 0) / 2), source="random weights of the published shape")
            found.append(one)
            first, last = one.points[0], one.points[-1]
            part.add(
                what=spec.name,
                ok=True,
                dtype=one.dtype,
                points=len(one.points),
                fewest_ms=round(1000 * first.seconds, 3),
                fewest_amount=first.amount,
                most_ms=round(1000 * last.seconds, 3),
                most_amount=last.amount,
                weights_mib=one.weights_bytes // 2**20,
                row_mib=round(one.row_bytes / 2**20, 1),
                load_s=one.load_s,
            )
            write_profile_file(Path(os.environ.get("OUT", part.folder)) / FILE, found, measured_here())


def _specs(part: Part) -> list[StageSpec]:
    options = LoadOptions(device=part.device, dtype="auto")
    vision, words, paint = seeing_model(part), language_model(part), painter(part)
    many, slots = part.pick(16, 2), part.pick(32, 2)

    def spec(name: str, loader: str, folder: Path, most: int, settings: object = None) -> StageSpec:
        kind = name.rpartition(".")[2]
        source = Source(folder=str(folder))
        return StageSpec(name, kind, loader, source, options, BatchLimits(most), QueueLimits(), settings=settings)

    return [
        spec("qwen2.5-1.5b.llm", "transformers", words, slots, LlmSettings(slots, 2048, part.pick(1024, 32))),
        spec("qwen2.5-vl.vision_encoder", "transformers", vision, part.pick(8, 2)),
        spec("sdxl.text_encoder", "diffusers", paint, many),
        spec("sdxl.denoiser", "diffusers", paint, part.pick(8, 2)),
        spec("sdxl.vae_decoder", "diffusers", paint, part.pick(4, 2)),
    ]
