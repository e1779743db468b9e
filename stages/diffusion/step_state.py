"""A row between two steps, as bytes: what a preempted request needs to go on later, here or on another replica.

Decides what belongs to a row's state: its latents, its generator, the model calls made, and whatever its scheduler holds that a
fresh one of the same request does not. No sampler lists its own memory: what can't be taken along is refused, never lost. Knows no
model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

from stages.contract.errors import StageFailed
from stages.contract.result import Arrays
from stages.diffusion.denoise_row import DenoiseRow

Plain: TypeAlias = "int | float | bool | str | list[Plain] | dict[str, str] | None"
"""JSON-able; {"tensor": name} stands for the array of that name."""

_LATENTS, _GENERATOR = "latents", "generator"
_TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class StepState:
    """`arrays` holds latents, generator and the scheduler's tensors; `memory` the rest of what it remembers."""

    call: int
    arrays: Arrays
    memory: Mapping[str, Plain]


def export_state(row: DenoiseRow) -> StepState:
    """The row stays as it is. Raises `StageFailed` where its scheduler remembers what is neither a number nor a tensor."""
    arrays: dict[str, NDArray[Any]] = {
        _LATENTS: row.latents.cpu().numpy().copy(),
        _GENERATOR: row.generator.get_state().numpy().copy(),
    }
    memory = {name: _pack(value, f"scheduler.{name}", arrays) for name, value in row.schedule.memory().items()}
    return StepState(row.call, arrays, memory)


def restore_state(row: DenoiseRow, state: StepState) -> None:
    """Puts a freshly started row of the same request where the exported one was. Raises `StageFailed` for another's state."""
    latents = state.arrays[_LATENTS]
    if latents.shape != tuple(row.latents.shape) or not 0 <= state.call < row.schedule.num_calls:
        raise StageFailed(
            f"this state is another request's: latents {latents.shape} after call {state.call}, where "
            f"{tuple(row.latents.shape)} and a call under {row.schedule.num_calls} are right"
        )
    row.schedule.remember({name: _unpack(value, state.arrays, row.latents.device) for name, value in state.memory.items()})
    row.latents = torch.tensor(latents).to(row.latents.device)
    row.generator.set_state(torch.tensor(state.arrays[_GENERATOR]))
    row.call = state.call


def _pack(value: object, name: str, arrays: dict[str, NDArray[Any]]) -> Plain:
    if isinstance(value, torch.Tensor):
        arrays[name] = value.cpu().numpy().copy()
        return {_TENSOR: name}
    if isinstance(value, list):
        return [_pack(part, f"{name}.{index}", arrays) for index, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StageFailed(f"{name} is a {type(value).__name__}, which cannot be taken along")


def _unpack(value: Plain, arrays: Arrays, device: torch.device) -> object:
    if isinstance(value, list):
        return [_unpack(part, arrays, device) for part in value]
    if not isinstance(value, dict):
        return value
    tensor = torch.tensor(arrays[value[_TENSOR]])
    return tensor.to(device) if tensor.ndim else tensor  # scalars (timesteps, step sizes) live on the CPU
