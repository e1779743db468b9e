"""What a plan is made for: devices, stages as they were measured on them, and the requests that come.

Pure values, and nothing else: no file, no configuration, no solver. Times are seconds, rates requests a second, amounts in each stage's own
unit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.contract.cost import Speed, StepTimes
from stages.contract.work import Work

GIB = 2**30
CROSSING = StepTimes(((0.0, 0.005), (1e6, 0.015), (8e6, 0.035)))
"""Seconds from one deployment to another and back, by the bytes that come back. Without any: what stages that are apart add to a request
beside stages in one replica, a call (`benchmarks/results/overhead.json`, two cores for everything); with: as an array's through Ray."""


@dataclass(frozen=True, slots=True)
class Device:
    """A type of device. `model`: as profiles and datasheets name it. `per_node`, `cpus_per_node`: of one node; a node without GPUs is
    one device. `found_by`: how Ray knows it, in Ray's words (`accelerator_type`, `label_selector`, `resources`)."""

    name: str
    count: int
    memory_bytes: int
    model: str = ""
    per_node: int = 1
    cpus_per_node: float = 8.0
    price_per_hour: float | None = None
    is_gpu: bool = True
    found_by: Mapping[str, object] = field(default_factory=dict)

    @property
    def num_nodes(self) -> int:
        return -(-self.count // self.per_node)


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage on a whole device of one type. `speed.max_rows`: of the largest batch that is allowed. `weights_bytes`: once for each
    replica; `row_bytes`: for each row or item of a batch."""

    speed: Speed
    weights_bytes: float = 0.0
    row_bytes: float = 0.0
    dtype: str = "auto"


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request asks of a stage: `items` of `work` each, on the average, after what is remembered. `first`: the part of it until
    the first output (of an LLM: its prompt). Items of one request run beside each other. `result_bytes`: of one item's result, as it goes
    to whoever needs it."""

    stage: str
    work: Work
    items: float = 1.0
    first: Work | None = None
    result_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Slo:
    """Bounds on a request's time, each None or seconds: until the first token, between tokens, until the last."""

    first_token_s: float | None = None
    token_s: float | None = None
    total_s: float | None = None


@dataclass(frozen=True, slots=True)
class RequestClass:
    """Requests that are alike. `rate`: of them, or their share in the mix: only what it is beside the others counts where the rate is
    what is looked for. `demands`: in the order in which a request visits its stages."""

    name: str
    rate: float
    demands: tuple[Demand, ...]
    slo: Slo = Slo()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All that a plan follows from. `stages`: MODEL.PART of all that must be placed, also those that no class visits. `measured`: by stage
    and name of the device; what is not there can't run there. `why_not`: of some that aren't there, the reason. `crossing`: seconds that a
    result of so many bytes takes from one deployment to another."""

    stages: tuple[str, ...]
    devices: tuple[Device, ...]
    measured: Mapping[tuple[str, str], Measured]
    classes: tuple[RequestClass, ...]
    why_not: Mapping[tuple[str, str], str] = field(default_factory=dict)
    crossing: StepTimes = CROSSING


@dataclass(frozen=True, slots=True)
class Rules:
    """What the plan must keep. `utilisation`: the part of a device's time that may be planned for. `replicas`: of each stage that is
    visited, on as many nodes. `memory_part`: of a device's memory that weights and batches may take; `process_bytes`: what a replica
    takes beside them (contexts, libraries' own buffers)."""

    utilisation: float = 0.8
    replicas: int = 1
    fractions: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125)
    memory_part: float = 0.9
    process_bytes: float = 0.5 * GIB

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation {self.utilisation} is not over 0 and at most 1")
        if self.replicas < 1:
            raise ValueError(f"{self.replicas} replicas are too few")
        if any(not math.log2(1 / part).is_integer() or part > 1 for part in self.fractions):
            raise ValueError(f"fractions {self.fractions}: only halves of halves fill whole devices however they are mixed")
