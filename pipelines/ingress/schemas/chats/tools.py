"""What of a chat's body says which functions may be called, and whether.

Decides what OpenAI's forms mean; knows no models and no grammar.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.ingress.schemas.chats.messages import LenientBody
from pipelines.ingress.schemas.strict import RequestBody
from pipelines.tools.asked import NO_PARAMETERS, Function, ToolChoice, Tools
from stages.contract.errors import InvalidRequest

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.\-]{1,64}$")]


class FunctionBody(LenientBody):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of an object; left out: no arguments")
    strict: bool | None = Field(None, description="calls that the model chooses to make are held to the schema, too")


class ToolBody(LenientBody):
    """`function` is required, which is looked at behind `type`: other tools have none."""

    type: Literal["function"]
    function: FunctionBody | None = None


class NamedFunction(LenientBody):
    name: str


class NamedTool(RequestBody):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(RequestBody):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(RequestBody):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


Choice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]


class ToolFields(RequestBody):
    """Those fields of a body."""

    tools: Annotated[list[ToolBody], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Choice | None = Field(None, description="left out: auto")
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most")
    functions: None = None
    function_call: None = None

    def asked_tools(self) -> Tools | None:
        """What may be called; None: nothing. Raises `InvalidRequest` for a choice of what is not there."""
        functions = tuple(_function(place, tool) for place, tool in enumerate(self.tools or ()))
        _refuse_twice(functions)
        choice = self.tool_choice
        if choice == "none" or (not functions and choice in (None, "auto")):
            return None
        if not functions:
            raise InvalidRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
        parallel = self.parallel_tool_calls is not False
        if isinstance(choice, NamedTool):
            return Tools(_only(functions, [choice], "tool_choice"), ToolChoice.REQUIRED, parallel=False)
        if isinstance(choice, AllowedToolChoice):
            allowed = choice.allowed_tools
            return Tools(_only(functions, allowed.tools, "tool_choice.allowed_tools"), ToolChoice(allowed.mode), parallel)
        return Tools(functions, ToolChoice(choice or "auto"), parallel)


def _function(place: int, tool: ToolBody) -> Function:
    body = tool.function
    if body is None:
        raise InvalidRequest(f"tools[{place}].function is required", param=f"tools[{place}].function")
    return Function(
        body.name,
        body.description,
        NO_PARAMETERS if body.parameters is None else body.parameters,
        strict=bool(body.strict),
        param=f"tools[{place}].function.parameters",
    )


def _refuse_twice(functions: tuple[Function, ...]) -> None:
    seen: set[str] = set()
    for place, function in enumerate(functions):
        if function.name in seen:
            raise InvalidRequest(
                f"tools[{place}].function.name {function.name!r} is there already; names tell functions apart",
                param=f"tools[{place}].function.name",
            )
        seen.add(function.name)


def _only(functions: tuple[Function, ...], named: list[NamedTool], param: str) -> tuple[Function, ...]:
    wanted = {tool.function.name for tool in named}
    missing = wanted - {function.name for function in functions}
    if missing:
        raise InvalidRequest(f"{param} names {min(missing)!r}, which is none of tools", param=param)
    return tuple(function for function in functions if function.name in wanted)
