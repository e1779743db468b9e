"""The contract between a stage and what hosts it: the two kinds of stage.

A stage is a loaded part of a model on one device. It is synchronous. It knows no cluster and no other stage. A stage is one of two
kinds:

- `OneShotStage` (vision encoder, text encoder, VAE encoder and decoder, CLIP embedder): a batch goes in, a result each comes out.
- `IterativeStage` (LLM, denoiser): rows; a row may join or leave between any two steps.

Of both kinds, `check` and `weigh` (and an iterative stage's `needs`) are cheap, need no device and may be called on any thread, before
anything starts; only what `check` has passed is weighed, asked for its needs, and prepared. `prepare`, and of what it gives `share` (or
`batch_key` and `cost`), are called on pool threads, several at a time, with the results that the payload's recipes ask for at hand;
everything else only ever on the engine's own thread. What is prepared waits, and rests while its row is suspended, so it lies on the
host: memory of the device is taken by `run`, `start` and `resume`. A stage never decides what runs when: that is
`stages/engine/scheduling/scheduler.py`. It never remembers results: that is `stages/host/`.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from stages.contract.recipe import NO_INPUTS, Inputs, Payload, Recipe
from stages.contract.result import Result
from stages.contract.work import Work

P_contra = TypeVar("P_contra", bound=Payload, contravariant=True)  # what a pipeline sends
Q = TypeVar("Q")  # what `prepare` makes of it
R = TypeVar("R")  # the state of one running request
R_contra = TypeVar("R_contra", contravariant=True)
V_co = TypeVar("V_co", bound=Result, covariant=True)  # what a one-shot stage makes


class OneShotStage(Protocol[P_contra, Q, V_co]):
    """A batch goes in, results come out, in the same order."""

    @property
    def device(self) -> str: ...

    @property
    def result_type(self) -> type[V_co]:
        """Of what `run` makes."""
        ...

    def check(self, payload: P_contra) -> None:
        """Raises `InvalidRequest` for a payload that could never run. What takes reading the payload through is for `prepare`."""
        ...

    def weigh(self, payload: P_contra) -> float:
        """About what it will cost, before it is prepared."""
        ...

    def prepare(self, payload: P_contra, inputs: Inputs) -> Q:
        """What can be done on the host (decode, resize, tokenize); again, after memory ran out. May raise `InvalidRequest`. What takes
        long asks `stages/contract/wanted.py` between its pieces."""
        ...

    def batch_key(self, item: Q) -> Hashable:
        """Items with equal keys may share a batch."""
        ...

    def cost(self, item: Q) -> float:
        """In the stage's own work unit (image patches, prompt tokens, pixels)."""
        ...

    def run(self, batch: Sequence[Q]) -> Sequence[V_co]:
        """One result per item. If it raises, the engine retries the items one by one, so that a bad one fails alone; where memory
        ran out, in smaller batches."""
        ...


class Share(NamedTuple):
    """What a row needs of the next step it takes part in: company of its `batch_key`, and room for its `cost`. `rest`: all that is left to
    do of it, that step included (None: what was foreseen, less what was done)."""

    batch_key: Hashable
    cost: float
    rest: Work | None = None


class Stepped(NamedTuple):
    """What a step did for one row: events for the client, in order, and whether the row is done or failed. `work`: what was done of
    its cost, where that was not all (None: it was). For whom nothing was done (0) it was no step."""

    events: Sequence[object] = ()
    done: bool = False
    error: Exception | None = None
    work: float | None = None


class IterativeStage(Protocol[P_contra, Q, R]):
    """Rows that advance together, one step at a time.

    The engine calls `prepare` on a pool thread: once an item, and again with more inputs after each `InputsMissing`, or after
    memory ran out. Then, from one thread: `start` (only when `can_start`), `step` with any running rows that share a `batch_key`,
    and `finish` exactly once per started row: done, failed, cancelled or past its deadline. A row that must make way is suspended,
    then finished; later, when `can_start`, `resume` makes a row that goes on where it stopped.

    Where memory runs out (`stages/contract/faults.py` knows the errors), nothing has happened: a `start` or `resume` that raises it
    has taken nothing, and a `step` that raises it has left every row as it was, so that all of them may go on, fewer at a time.
    """

    @property
    def device(self) -> str: ...

    def check(self, payload: P_contra) -> None:
        """Raises `InvalidRequest` for a payload that could never run (longer than a slot, an unknown sampler)."""
        ...

    def weigh(self, payload: P_contra) -> float:
        """About what it will cost its first step, before it is prepared."""
        ...

    def needs(self, payload: P_contra, inputs: Inputs = NO_INPUTS) -> Sequence[Recipe[Any]]:
        """Of what the payload needs, what this stage can't do without now, given these `inputs` (pages of its beginning, where it
        is `Paged`); what its rows hold already it need not be given. A hint: `start` and `resume` raise `InputsMissing` where that
        has changed since."""
        ...

    def prepare(self, payload: P_contra, inputs: Inputs) -> Q:
        """What can be done on the host before it starts (checks, conversions, positions). `inputs` may lack what `needs` left
        out. May raise `InvalidRequest`, or `StageFailed` for inputs of another model."""
        ...

    def share(self, prepared: Q) -> Share:
        """What it will need of its first step, as things stand."""
        ...

    def can_start(self, payload: P_contra) -> bool:
        """Whether there is room for it now (a slot, memory)."""
        ...

    def start(self, payload: P_contra, prepared: Q) -> R:
        """Raises `InputsMissing`, having taken nothing."""
        ...

    def suspend(self, row: R) -> object:
        """What `resume` needs beside what was prepared, on the host. The row stays as it is: `finish` follows."""
        ...

    def resume(self, payload: P_contra, prepared: Q, suspended: Any) -> R:
        """A row of the same payload that goes on where the suspended one stopped: the client sees no difference. Raises
        `InputsMissing`, having taken nothing."""
        ...

    def batch_key(self, row: R) -> Hashable:
        """Rows with equal keys may share a step."""
        ...

    def cost(self, row: R) -> float:
        """What the row adds to a step, in the stage's own work unit (rows x latent tokens, tokens)."""
        ...

    def step(self, rows: Sequence[R]) -> Sequence[Stepped]:
        """Advances every row once; one `Stepped` each, in order. If it raises, every row in the step fails."""
        ...

    def finish(self, row: R) -> None:
        """Frees what the row holds. Never raises; may be called for a row that never stepped."""
        ...


@runtime_checkable
class Foreseeing(Protocol[R_contra]):
    """An iterative stage that can tell how much is left of its rows. The engine's thread."""

    def rest(self, row: R_contra) -> Work | None:
        """As far as can be told: of a row that is not done, at least a step. None: what was told last, less what was done since."""
        ...


@runtime_checkable
class Overlapping(Protocol):
    """An iterative stage whose thread has time while its device computes a step."""

    def while_computing(self, do: Callable[[], None]) -> bool:
        """Once, before the first step: what every step is to call, on the engine's thread, as soon as all that the device needs for it is
        on its way, or it waits for something else. It never raises. False: there is no such time, and it is not called."""
        ...


@runtime_checkable
class StepBounded(Protocol):
    """An iterative stage whose steps hold no more than so much, whatever its rows ask for. Any thread."""

    @property
    def max_step_amount(self) -> float: ...


@runtime_checkable
class Shrinkable(Protocol):
    """A stage, of either kind, that can do the same work in smaller pieces, at some cost in speed."""

    def shrink(self) -> bool:
        """One item alone ran out of memory. True: its work comes in smaller pieces from now on; False: it already does."""
        ...


@runtime_checkable
class Resident(Protocol):
    """A stage, of either kind, that holds results in a form that spares it being given them."""

    def resident_names(self) -> Collection[str]:
        """Of those results. Any thread."""
        ...
