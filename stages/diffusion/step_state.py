"""A row between two steps, as bytes: what a preempted request needs to go on later, here or on another replica.

Decides what belongs to a row's state: its latents, its generator, the model calls made, and what its scheduler remembers of
past calls. What a fresh scheduler of the same request has anyway (noise levels, timesteps) is left out. Knows no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

from stages.contract.errors import StageFailed
from stages.contract.result import Arrays
from stages.diffusion.denoise_row import DenoiseRow

Plain: TypeAlias = "int | float | bool | str | list[Plain] | None"

_LATENTS, _GENERATOR = "latents", "generator"
_ARRAY = "array:"  # in `memory`: stands for the array of that name
_MEMORIES = (
    *("_step_index", "is_scale_input_called", "counter", "lower_order_nums", "this_order"),
    *("ets", "cur_model_output", "cur_sample"),  # PNDM
    *("derivatives",),  # LMS
    *("prev_derivative", "dt", "sample"),  # Heun; single-step DPM-Solver
    *("model_outputs", "timestep_list", "last_sample"),  # the multistep solvers
)


@dataclass(frozen=True, slots=True)
class StepState:
    """`arrays` holds latents, generator and the scheduler's tensors; `memory` the rest of what it remembers, JSON-able."""

    call: int
    arrays: Arrays
    memory: Mapping[str, Plain]


def export_state(row: DenoiseRow) -> StepState:
    """The row stays as it is."""
    arrays: dict[str, NDArray[Any]] = {
        _LATENTS: row.latents.cpu().numpy().copy(),
        _GENERATOR: row.generator.get_state().numpy().copy(),
    }
    known = vars(row.schedule.scheduler)
    memory = {name: _pack(known[name], name, arrays) for name in _MEMORIES if name in known}
    return StepState(row.call, arrays, memory)


def restore_state(row: DenoiseRow, state: StepState) -> None:
    """Puts a freshly started row of the same request where the exported one was. Raises `StageFailed` for another's state."""
    latents = state.arrays[_LATENTS]
    if latents.shape != tuple(row.latents.shape) or not 0 <= state.call < row.schedule.num_calls:
        raise StageFailed(
            f"this state is another request's: latents {latents.shape} after call {state.call}, where "
            f"{tuple(row.latents.shape)} and a call under {row.schedule.num_calls} are right"
        )
    row.latents = torch.tensor(latents).to(row.latents.device)
    row.generator.set_state(torch.tensor(state.arrays[_GENERATOR]))
    row.call = state.call
    for name, value in state.memory.items():
        if name not in _MEMORIES:
            raise StageFailed(f"this state is not a denoiser's: {name!r} is nothing that a scheduler remembers")
        setattr(row.schedule.scheduler, name, _unpack(value, state.arrays, row.latents.device))


def _pack(value: object, name: str, arrays: dict[str, NDArray[Any]]) -> Plain:
    if isinstance(value, torch.Tensor):
        arrays[name] = value.cpu().numpy().copy()
        return _ARRAY + name
    if isinstance(value, list):
        return [_pack(part, f"{name}.{index}", arrays) for index, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise StageFailed(f"the scheduler's {name} is a {type(value).__name__}, which cannot be taken along")


def _unpack(value: Plain, arrays: Arrays, device: torch.device) -> object:
    if isinstance(value, list):
        return [_unpack(part, arrays, device) for part in value]
    if not isinstance(value, str):
        return value
    tensor = torch.tensor(arrays[value.removeprefix(_ARRAY)])
    return tensor.to(device) if tensor.ndim else tensor  # scalars (timesteps, step sizes) live on the CPU
