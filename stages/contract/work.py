"""How much one item asks of a device, as far as that is known before it starts.

Pure; knows no stage and no device. How long it takes is `stages/contract/cost.py`.
"""

from dataclasses import dataclass

from stages.contract.message import message


@message
@dataclass(frozen=True, slots=True)
class Work:
    """`amount`: in the stage's own unit (image patches, tokens, latent positions times rows, pixels), of all steps together. `steps`: in
    how many steps of the device it takes part, one after another (a one-shot stage's batch is one)."""

    amount: float
    steps: float = 1.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.amount + other.amount, self.steps + other.steps)

    def __sub__(self, other: "Work") -> "Work":
        """Never below nothing: what was foreseen may have been too little."""
        return Work(max(0.0, self.amount - other.amount), max(0.0, self.steps - other.steps))

    def __mul__(self, times: float) -> "Work":
        return Work(self.amount * times, self.steps * times)

    def beside(self, num: int) -> "Work":
        """Of so many alike that run in the same steps."""
        return Work(self.amount * num, self.steps)


NO_WORK = Work(0.0, 0.0)
