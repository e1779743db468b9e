"""The training loop every demo model shares: budget, learning rate, averaging of weights, checkpoints, progress.

Decides when a training is over (a budget of minutes or of images, whichever is used up first), how the learning rate rises
and falls over it, and what a checkpoint holds, so that a killed training resumes. Knows no model and no data.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

WORK = Path(__file__).parents[1] / ".work"
_CHECKPOINT_EVERY_S = 60.0
_LOG_EVERY_S = 20.0

Step = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a training lasts: until it has computed for `minutes` or seen `images`. The rate falls to 0 by then."""

    minutes: float
    images: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model's weights are moved."""

    learning_rate: float
    batch_size: int
    weight_decay: float = 0.02
    warm_up: float = 0.03
    averaging: float = 0.0  # decay of the exponential average of the weights; 0 for none


def busy_s() -> float:
    """Seconds this process has kept the machine busy: a CPU shared with others, or waiting, doesn't use up a budget."""
    if torch.cuda.is_available():
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()


class Loop:
    """Trains `model` on the losses a step function returns; `trained()` hands it back with its (averaged) weights."""

    def __init__(self, name: str, model: nn.Module, recipe: Recipe, budget: Budget) -> None:
        self.name, self.model, self.recipe, self.budget = name, model, recipe, budget
        self.num_steps = 0
        self.elapsed_s = 0.0
        self._parameters = [value for value in model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(self._groups(), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
        self._average = [value.detach().clone() for value in self._parameters] if recipe.averaging else []
        self._path = WORK / f"{name}.pt"
        self._resume()

    @property
    def progress(self) -> float:
        """How much of the budget is used, 0 to 1."""
        images = self.num_steps * self.recipe.batch_size
        return min(1.0, max(self.elapsed_s / 60 / self.budget.minutes, images / self.budget.images))

    def run(self, step: Step) -> None:
        """Steps until the budget is used; `step` gets the step's number and returns named losses, the first is minimised."""
        last, logged, saved = busy_s(), -_LOG_EVERY_S, self.elapsed_s
        self.model.train()
        while self.progress < 1.0:
            losses = step(self.num_steps)
            self._move(next(iter(losses.values())))
            self.num_steps += 1
            now = busy_s()
            self.elapsed_s, last = self.elapsed_s + now - last, now
            if self.elapsed_s - logged > _LOG_EVERY_S:
                logged = self.elapsed_s
                self._log(losses)
            if self.elapsed_s - saved > _CHECKPOINT_EVERY_S:
                saved = self.elapsed_s
                self.save()
        self.save()

    def trained(self) -> nn.Module:
        """The model, in evaluation mode, with averaged weights where the recipe asks for them."""
        with torch.no_grad():
            for value, average in zip(self._parameters, self._average, strict=False):
                value.copy_(average)
        return self.model.eval()

    def save(self) -> None:
        """Writes the checkpoint; a half-written one never replaces a whole one."""
        WORK.mkdir(exist_ok=True)
        state: dict[str, object] = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
        }
        state |= {"num_steps": self.num_steps, "elapsed_s": self.elapsed_s}
        partial = self._path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._path)

    def _resume(self) -> None:
        if not self._path.exists():
            return
        state = torch.load(self._path, map_location=self._parameters[0].device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average = state["average"]
        self.num_steps, self.elapsed_s = state["num_steps"], state["elapsed_s"]

    def _groups(self) -> list[dict[str, object]]:
        matrices = [value for value in self._parameters if value.ndim >= 2]
        vectors = [value for value in self._parameters if value.ndim < 2]
        return [{"params": matrices, "weight_decay": self.recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]

    def _move(self, loss: Tensor) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._fraction()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        if self._average:
            decay = min(self.recipe.averaging, (1 + self.num_steps) / (10 + self.num_steps))
            torch._foreach_lerp_(self._average, [value.detach() for value in self._parameters], 1 - decay)

    def _fraction(self) -> float:
        warm = min(1.0, (self.progress + 1e-4) / self.recipe.warm_up)
        return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def _log(self, losses: dict[str, Tensor]) -> None:
        shown = "  ".join(f"{name} {float(value.detach()):.4f}" for name, value in losses.items())
        speed = self.num_steps * self.recipe.batch_size / max(self.elapsed_s, 1e-3)
        print(f"{self.name:10} {self.progress:6.1%}  step {self.num_steps:6}  {speed:6.0f}/s  {shown}", flush=True)
