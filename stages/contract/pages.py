"""Rows that begin where another left off: what an iterative stage remembers of them, in pages.

Decides what a host may ask such a stage, and what the stage hands over. Knows no cache and no kind of stage.

A page is a `Result` under a name that stands for everything that came before it, too; so of a payload every page that will come is
known before anything runs. Whoever hosts the stage looks for the pages that a newcomer's beginning has, hands those that are at hand
to `prepare` among its inputs, and remembers what `export` gives. Pages are never needed: a row that lacks them computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from stages.contract.recipe import Payload
from stages.contract.result import Result

P_contra = TypeVar("P_contra", bound=Payload, contravariant=True)


@dataclass(frozen=True, slots=True)
class PageRun:
    """The pages of a payload's beginning, in order. `names`: without what depends on who computes (weights, dtype), which the host
    adds. `num_resident`: how many of them, from the first, the stage holds itself, as things stand. `work`: what one page saves, in
    the stage's own work unit. `num_bytes`: about what one has. `each_holds_all`: one page is as good as all up to it (False: a run
    from the first is needed, or from what the stage holds)."""

    names: tuple[str, ...] = ()
    num_resident: int = 0
    work: float = 0.0
    num_bytes: int = 0
    each_holds_all: bool = False


@dataclass(frozen=True, slots=True)
class MadePage:
    """A page that is to be remembered: on the host, and nobody changes it any more. `salt`: of whoever it was made for."""

    name: str
    salt: str
    value: Result


@runtime_checkable
class Paged(Protocol[P_contra]):
    """What an `IterativeStage` may be, too. Its `needs` and `prepare` find pages among the inputs, by their names (`Inputs.get`)."""

    @property
    def page_type(self) -> type[Result]: ...

    def page_run(self, payload: P_contra) -> PageRun:
        """Of what `check` has passed. Pure but for `num_resident`. Any thread; a millisecond at most, or so."""
        ...

    def has_exports(self, *, idle: bool) -> bool:
        """Whether `export` would give anything. The engine's thread."""
        ...

    def export(self, *, idle: bool) -> Sequence[MadePage]:
        """Pages that are worth remembering, and not known to be remembered: no more than take a few milliseconds to hand over.
        `idle`: nothing else is to be done, so also those that nobody has asked for a second time. The engine's thread, between
        steps."""
        ...
