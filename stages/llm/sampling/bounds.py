"""Whether sampling parameters are within the bounds that `Sampling` declares. Decides how a value outside is told.

Pure; knows no field by name, so that a new one is checked as soon as it is declared.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Sampling

Bounds = Sequence[Ge | Gt | Le]


def check_bounds(sampling: Sampling) -> None:
    """Raises `InvalidRequest` naming the field."""
    for name, bounds in _bounds().items():
        value = getattr(sampling, name)
        for one in value.values() if isinstance(value, Mapping) else () if value is None else (value,):
            if not all(_holds(bound, one) for bound in bounds):
                raise InvalidRequest(f"{name} {one} is not allowed; it is {_told(bounds)}", param=name)


@cache
def _bounds() -> Mapping[str, Bounds]:
    """By field; of a mapping, its values'."""
    found = {name: _declared(hint) for name, hint in get_type_hints(Sampling, include_extras=True).items()}
    return {name: bounds for name, bounds in found.items() if bounds}


def _declared(hint: Any) -> Bounds:
    """Also within a union or a mapping."""
    if get_origin(hint) is Annotated:
        return [bound for bound in hint.__metadata__ if isinstance(bound, Ge | Gt | Le)]
    return [bound for inner in get_args(hint) for bound in _declared(inner)]


def _holds(bound: Ge | Gt | Le, value: Any) -> bool:
    """Never for NaN."""
    match bound:
        case Ge(ge=least):
            return bool(value >= least)
        case Gt(gt=below):
            return bool(value > below)
        case Le(le=most):
            return bool(value <= most)


def _told(bounds: Bounds) -> str:
    words = []
    for bound in bounds:
        match bound:
            case Ge(ge=least):
                words.append(f"at least {least}")
            case Gt(gt=below):
                words.append(f"more than {below}")
            case Le(le=most):
                words.append(f"at most {most}")
    return " and ".join(words)
