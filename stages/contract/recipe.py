"""How a result is asked for before it exists: its name, the stage that makes it, and what that stage needs.

Decides what travels from one stage to another in place of results. Pure; knows no stage, no cache and no transport.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from stages.contract.message import message
from stages.contract.result import Result
from stages.contract.work import Work

V = TypeVar("V", bound=Result)


class Payload(Protocol):
    """What a stage is sent. Says what it needs, before anything is loaded or started."""

    def needs(self) -> "Sequence[Recipe[Any]]":
        """The results of other stages that it holds recipes of."""
        ...


class Making(Payload, Protocol):
    """What a one-shot stage is sent: it also says what kind of result is made of it."""

    makes: ClassVar[type[Result]]


@message(droppable=["param", "work", "params"])
@dataclass(frozen=True, slots=True)
class Recipe(Generic[V]):
    """A result that need not exist yet. `name`: the digest of what makes it; `stage`: who makes it, MODEL.PART; `param`: the
    field of the request that it stands for, to be named where that is at fault, and `params`: others, by the payload's names for them;
    `work`: about how much it will take, None where nobody knows."""

    name: str
    stage: str
    payload: Making
    param: str | None = field(default=None, compare=False)
    work: Work | None = field(default=None, compare=False)
    params: Mapping[str, str] = field(default_factory=dict, compare=False)

    def asked_as(self, at_fault: str | None) -> str | None:
        """What the request calls the payload's field."""
        return self.params.get(at_fault or "", self.param)


class Inputs:
    """Results at hand, by the recipes that ask for them."""

    __slots__ = ("_results",)

    def __init__(self, results: Mapping[str, Result] | None = None) -> None:
        """`results`: by the recipes' names."""
        self._results = dict(results or {})

    def __getitem__(self, recipe: Recipe[V]) -> V:
        """Raises `KeyError` where it is not at hand."""
        return cast(V, self._results[recipe.name])

    def get(self, name: str) -> Result | None:
        """By its name alone: of what no recipe asks for (`stages/contract/pages.py`)."""
        return self._results.get(name)

    def __contains__(self, recipe: Recipe[Any]) -> bool:
        return recipe.name in self._results

    def lacks(self, recipes: Iterable[Recipe[Any]]) -> tuple[Recipe[Any], ...]:
        """Those that are not at hand, each once."""
        return tuple({recipe.name: recipe for recipe in recipes if recipe not in self}.values())

    def only(self, recipes: Iterable[Recipe[Any]]) -> "Inputs":
        """Those of these recipes that are at hand."""
        return Inputs({recipe.name: self._results[recipe.name] for recipe in recipes if recipe in self})

    def with_more(self, more: "Inputs") -> "Inputs":
        return Inputs(self._results | more._results)


NO_INPUTS = Inputs()


class InputsMissing(Exception):
    """Raised by `IterativeStage.start` and `resume`: what made these results needless is gone, so they are needed after all."""

    def __init__(self, recipes: Sequence[Recipe[Any]]) -> None:
        super().__init__(", ".join(recipe.name for recipe in recipes))
        self.recipes = recipes
