"""From a row to its state and back: what a preempted or interrupted request needs to go on, here or on another replica.

Decides what belongs to a row's state: its latents, its generator, the model calls made, and whatever its scheduler holds that a
fresh one of the same request does not. No sampler lists its own memory: what can't be taken along is refused, never lost. Knows no
model.
"""

from typing import Any

import torch
from numpy.typing import NDArray

from stages.contract.errors import StageFailed
from stages.contract.result import Arrays
from stages.diffusion.denoise_row import DenoiseRow
from stages.diffusion.sampling.schedule import Schedule
from stages.diffusion.step_state import GENERATOR, LATENTS, TENSOR, Plain, StepState


def export_state(row: DenoiseRow) -> StepState:
    """The row stays as it is. Raises `StageFailed` where its scheduler remembers what is neither a number nor a tensor."""
    tensors: dict[str, NDArray[Any]] = {
        LATENTS: row.latents.cpu().numpy().copy(),
        GENERATOR: row.generator.get_state().numpy().copy(),
    }
    memory = {name: _pack(value, f"scheduler.{name}", tensors) for name, value in row.schedule.memory().items()}
    return StepState(row.call, tensors, memory)


def fits(state: StepState, call: int, shape: tuple[int, ...], schedule: Schedule) -> bool:
    """Whether a row with latents of this shape goes on from there after that call. What was kept may be damaged, or another
    library's: then it is of no use, and nobody's fault."""
    return (
        (state.call, state.shape) == (call, shape)
        and _is_generators(state.tensors[GENERATOR])
        and all(map(schedule.may_remember, state.memory))
    )


def restore_state(row: DenoiseRow, state: StepState) -> None:
    """Puts a freshly started row of the same request where the exported one was. Raises `StageFailed` for another's state."""
    if state.shape != tuple(row.latents.shape) or not 0 <= state.call <= row.schedule.num_calls:
        raise StageFailed(
            f"this state is another request's: latents {state.shape} after call {state.call}, where "
            f"{tuple(row.latents.shape)} and a call up to {row.schedule.num_calls} are right"
        )
    row.schedule.remember({name: _unpack(value, state.tensors, row.latents.device) for name, value in state.memory.items()})
    row.latents = torch.tensor(state.tensors[LATENTS]).to(row.latents.device)
    row.generator.set_state(torch.tensor(state.tensors[GENERATOR]))
    row.call = state.call


def _is_generators(state: NDArray[Any]) -> bool:
    try:
        torch.Generator("cpu").set_state(torch.tensor(state))
    except RuntimeError:  # of another size, or nonsense
        return False
    return True


def _pack(value: object, name: str, tensors: dict[str, NDArray[Any]]) -> Plain:
    if isinstance(value, torch.Tensor):
        tensors[name] = value.cpu().numpy().copy()
        return {TENSOR: name}
    if isinstance(value, list):
        return [_pack(part, f"{name}.{index}", tensors) for index, part in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StageFailed(f"{name} is a {type(value).__name__}, which cannot be taken along")


def _unpack(value: Plain, tensors: Arrays, device: torch.device) -> object:
    if isinstance(value, list):
        return [_unpack(part, tensors, device) for part in value]
    if not isinstance(value, dict):
        return value
    tensor = torch.tensor(tensors[value[TENSOR]])
    return tensor.to(device) if tensor.ndim else tensor  # scalars (timesteps, step sizes) live on the CPU
