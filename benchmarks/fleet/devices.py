"""A fleet of unlike devices and two models on it, as numbers: what a step of each stage takes on each, and what it takes of memory.

Three datasheets and five stages whose arithmetic is known. A step costs a launch, its weights once through memory, and its arithmetic at a
part of the device's peak. So stages differ in which device suits them: an answer's tokens wait for memory, a painting's steps for
arithmetic. No measurement: every side of a comparison stands on the same numbers. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stages.contract.cost import Speed, StepTimes

GIB = 2**30
LAUNCH_S = 0.003
OF_PEAK = 0.45

LLM, VISION = "chat.llm", "chat.vision_encoder"
TEXT, DENOISER, DECODER = "paint.text_encoder", "paint.denoiser", "paint.vae_decoder"


@dataclass(frozen=True, slots=True)
class DeviceType:
    """By its datasheet: dense bfloat16 FLOP/s, bytes a second and bytes of memory. `price_per_hour`: US dollars, on demand."""

    name: str
    count: int
    flops: float
    bytes_per_s: float
    memory_bytes: int
    price_per_hour: float


FLEET = (
    DeviceType("L4", 12, 121e12, 0.30e12, 24 * GIB, 0.80),
    DeviceType("A100", 6, 312e12, 2.04e12, 80 * GIB, 3.67),
    DeviceType("H100", 2, 989e12, 3.35e12, 80 * GIB, 8.0),
)


@dataclass(frozen=True, slots=True)
class StageCost:
    """`flops_a_unit`: of the stage's own unit of work (tokens, patches, positions times rows, pixels). `max_amount`: of one step; infinite
    where prompts are read in chunks, which bounds it by itself. `row_bytes`: of each row of a batch."""

    name: str
    is_iterative: bool
    weights_bytes: float
    flops_a_unit: float
    max_rows: int
    max_amount: float
    row_bytes: float

    def speed(self, device: DeviceType) -> Speed:
        base_s = LAUNCH_S + self.weights_bytes / device.bytes_per_s
        a_unit_s = self.flops_a_unit / (OF_PEAK * device.flops)
        times = StepTimes(((0.0, base_s), (1.0, base_s + a_unit_s)))
        return Speed(times, self.max_rows, self.max_amount, is_one_shot=not self.is_iterative)


POSITIONS = 128 * 128  # of 1024 x 1024 pixels, behind a factor of 8
PATCHES = 576
PIXELS = 1024 * 1024

STAGES = (
    StageCost(LLM, True, 6.4e9, 6.4e9, 64, math.inf, 0.1 * GIB),  # 3.2 billion weights
    StageCost(VISION, False, 0.6e9, 0.6e9, 16, 16.0 * PATCHES, 0.05 * GIB),
    StageCost(TEXT, False, 1.6e9, 1.6e9, 16, 16 * 154.0, 0.02 * GIB),
    StageCost(DENOISER, True, 5.2e9, 12e12 / POSITIONS, 8, 8.0 * 2 * POSITIONS, 1.2 * GIB),  # 6 T multiply-adds a forward pass
    StageCost(DECODER, False, 0.2e9, 2.5e12 / PIXELS, 4, 4.0 * PIXELS, 2.0 * GIB),
)
BY_NAME = {stage.name: stage for stage in STAGES}
