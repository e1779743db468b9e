"""A painting between two steps: what a row of any replica needs to go on from there, and the name under which it is remembered.

Decides how such a state becomes named arrays (never pickle: what is no array is JSON), and what decides its name: everything that changes
what is painted. Pure: knows no torch, no sampler and no cache.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np

from cache.keys import name
from stages.contract.result import Arrays, Result
from stages.diffusion.messages import Denoise

Plain: TypeAlias = "int | float | bool | str | list[Plain] | dict[str, str] | None"
"""JSON-able; {"tensor": name} stands for the tensor of that name."""

LATENTS, GENERATOR, TENSOR = "latents", "generator", "tensor"
_REST = "rest"

UNNAMED = frozenset({"preview_steps", "keep_steps"})
"""Fields of `Denoise` that change nothing of what is painted."""


@dataclass(frozen=True, slots=True)
class StepState(Result):
    """`call`: model calls made. `tensors`: "latents" [1, channels, height, width] float32, "generator" [bytes] uint8, and the
    sampler's, by name; `memory`: the rest of what the sampler remembers."""

    call: int
    tensors: Arrays
    memory: Mapping[str, Plain]

    def arrays(self) -> Arrays:
        """The tensors, and all else as UTF-8 bytes of JSON."""
        rest = json.dumps({"call": self.call, "memory": self.memory}).encode()
        return {**self.tensors, _REST: np.frombuffer(rest, np.uint8)}

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        try:
            tensors = dict(arrays)
            rest = json.loads(tensors.pop(_REST).tobytes())
            state = cls(rest["call"], tensors, rest["memory"])
            state._check()
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"these are no state's arrays: {type(error).__name__}: {error}") from None
        return state

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its latents."""
        return self.tensors[LATENTS].shape

    def _check(self) -> None:
        """Raises `KeyError` and what else goes wrong, `ValueError` for what is of another type."""
        latents, generator = self.tensors[LATENTS], self.tensors[GENERATOR]
        missing = {tensor for value in self.memory.values() for tensor in _tensors_of(value)} - self.tensors.keys()
        if missing:
            raise ValueError(f"a state lacks the tensors {', '.join(sorted(missing))}")
        if type(self.call) is not int or latents.dtype != np.float32 or generator.dtype != np.uint8 or generator.ndim != 1:
            raise ValueError(f"no state has call {self.call!r}, latents in {latents.dtype}, a generator in {generator.dtype}")


def state_names(payload: Denoise, sampler: str) -> Mapping[int, str]:
    """What the states that the payload wants kept are called, by the step (1-based) after which they are taken; in order. `sampler`:
    the one that it is painted with. Who asks for the same with the same salt finds them; whatever else would be painted has others.

    Of the inputs (embeddings, a given image's latents) the names tell weights and versions, not the dtype that they are computed in:
    only who makes them knows it, and a name is wanted before anybody is asked; who goes on from the last state asks nobody. So where
    text encoders of two dtypes are served, or one was exchanged for the other, a state made of the one's embeddings may be gone on
    from: the painting is then within rounding of either's, and not bit for bit one of them."""
    wanted = sorted({step for step in payload.keep_steps if 1 <= step <= payload.steps})
    if not wanted:
        return {}
    whole = _painting(payload, sampler)
    if payload.trunk is None:
        return {step: name("step_state", painting=whole, step=step) for step in wanted}
    trunk = _painting(replace(payload, prompt=payload.trunk, trunk=None, trunk_steps=0), sampler)
    return {step: name("step_state", painting=trunk if step <= payload.trunk_steps else whole, step=step) for step in wanted}


def _painting(payload: Denoise, sampler: str) -> str:
    return name(
        "painting",
        tenant=payload.salt,
        prompt=payload.prompt.name,
        negative=payload.negative.name if payload.negative is not None else None,
        width=payload.width,
        height=payload.height,
        steps=payload.steps,
        guidance_scale=float(payload.guidance_scale),
        seed=payload.seed,
        sampler=sampler,
        init=payload.init.name if payload.init is not None else None,
        strength=float(payload.strength),
        masked=payload.masked,
        trunk=[payload.trunk.name, payload.trunk_steps] if payload.trunk is not None else None,
    )


def _tensors_of(value: Plain) -> Sequence[str]:
    """The names of those that a remembered value stands for."""
    if isinstance(value, dict):
        return [value[TENSOR]]
    if isinstance(value, list):
        return [tensor for part in value for tensor in _tensors_of(part)]
    return []
