"""Rows that begin where another left off: what an iterative stage remembers of them, in pages.

Decides what a host may ask such a stage, and what the stage hands over. Knows no cache and no kind of stage.

A page is a `Result` under a name that stands for everything that came before it, too; so of a payload every page that will come is
known before anything runs. Whoever hosts the stage looks for the pages that a newcomer's beginning has, hands those that are at hand
to `prepare` among its inputs, and remembers what `export` gives. Pages are never needed: a row that lacks them computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from stages.contract.item import DEFAULT_TENANT
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
    """A page that is to be remembered: on the host, and nobody changes it any more. `salt`: of whoever it was made for. `before`: the names
    of the pages, in order, without which it is of no use."""

    name: str
    salt: str = field(repr=False)
    value: Result
    before: tuple[str, ...] = ()


@runtime_checkable
class Paged(Protocol[P_contra]):
    """What an `IterativeStage` may be, too. Its `needs` and `prepare` find pages among the inputs, by their names (`Inputs.get`). Once a
    row has started, nothing of the stage holds the pages that it was given: their memory is counted up to then."""

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
        `idle`: nothing else is to be done now, so also those that nobody has asked for a second time. The engine's thread, between
        steps."""
        ...

    def lost(self, names: Sequence[str]) -> None:
        """Of what `export` gave, these are not remembered after all: they may be given again. Any thread."""
        ...


class PageTaker(Protocol):
    """Whoever remembers pages. Any thread; neither blocks nor raises."""

    def has_room(self) -> bool:
        """Whether it keeps up. What it is given where it doesn't is lost."""
        ...

    def take(self, pages: Sequence[MadePage]) -> None: ...


class Paging(Protocol[P_contra]):
    """What an engine offers of a stage that is `Paged`. Any thread."""

    @property
    def page_type(self) -> type[Result]: ...

    def run_of(self, payload: P_contra, tenant: str = DEFAULT_TENANT) -> PageRun:
        """Raises what `Engine.submit` would raise now (but for the deadline). A stage that can't tell has no pages."""
        ...

    def seconds_for(self, work: float) -> float | None:
        """About how much longer computing takes for so much more work; None while nobody knows."""
        ...

    def remember_with(self, taker: PageTaker) -> None:
        """From now on the pages that are made are given to it, between steps. Before that, none are asked for."""
        ...

    def room_again(self) -> None:
        """The taker has room, and had none."""
        ...

    def lost(self, names: Sequence[str]) -> None:
        """The taker has dropped the pages of these names. Never raises."""
        ...
