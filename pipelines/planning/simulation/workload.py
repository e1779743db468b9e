"""What is asked of a fleet: requests, each with the calls that its pipeline makes one after another, and what those need first.

Decides what a simulated request is. Pure; knows no device: how long anything takes is for the fleet.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass

from stages.contract.item import DEFAULT_TENANT
from stages.contract.work import Work


@dataclass(frozen=True, slots=True)
class Task:
    """What one call asks of a stage: a `prompt` that is read in chunks (nothing for other stages than an LLM), then `steps` steps of
    `amount` each; the first of them is done with the prompt's last chunk. A one-shot stage's task is one step.

    `expected`: what is known of it beforehand, where that differs (an answer's length). `key`: what it may share a batch with.
    `name`: its result's, where that is remembered. `pages`: hints of how its prompt begins, the shortest beginning first; each stands for
    an equal part of `paged`, of what is left out where they are at hand. `needs`: results that are made first, all at once."""

    stage: str
    amount: float = 1.0
    steps: int = 1
    prompt: int = 0
    expected: Work | None = None
    key: Hashable = None
    name: int | None = None
    pages: tuple[int, ...] = ()
    paged: int = 0
    needs: tuple["Task", ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.amount < 0 or not 0 <= self.paged <= max(0, self.prompt - 1):
            raise ValueError(f"not a task: {self}")

    def work(self, chunk: int) -> Work:
        """What it really takes, its prompt read in chunks of so many."""
        if not self.prompt:
            return Work(self.amount * self.steps, self.steps)
        return Work(self.prompt + self.amount * (self.steps - 1), math.ceil(self.prompt / chunk) + self.steps - 1)


@dataclass(frozen=True, slots=True)
class Request:
    """`at_s`: when it comes. `calls`: one after another, each by the process that the request came to. `kind`: its class, for the
    figures. `within_s`: its objective (that of its answer's beginning: `first_within_s`); `deadline_s` after it came it is given up.
    """

    at_s: float
    calls: tuple[Task, ...]
    kind: str = "request"
    within_s: float = math.inf
    first_within_s: float = math.inf
    deadline_s: float = math.inf
    priority: int = 0
    tenant: str = DEFAULT_TENANT
