"""What tools a chat may call. Knows no model, no template and no HTTP; what of it is allowed is checked where it comes in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ToolChoice(Enum):
    """Whether an answer calls: as the model likes, or at least once. An answer that must not call has no `Tools`."""

    AUTO = "auto"
    REQUIRED = "required"


NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Function:
    """`parameters`: a JSON schema of an object, which a call's arguments are one of; `is_enforceable`: it is one that answers can be held
    to. `param`: the request's field, for messages."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMETERS)
    strict: bool = False
    is_enforceable: bool = True
    param: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """As chat templates take it."""
        told: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            told["description"] = self.description
        return {"type": "function", "function": told | {"parameters": dict(self.parameters)}}


@dataclass(frozen=True, slots=True)
class Tools:
    """`functions`: those that may be called now, at least one. `parallel`: several calls in one answer."""

    functions: tuple[Function, ...]
    choice: ToolChoice = ToolChoice.AUTO
    parallel: bool = True

    @property
    def must_call(self) -> bool:
        return self.choice is ToolChoice.REQUIRED

    def names(self) -> frozenset[str]:
        return frozenset(function.name for function in self.functions)
