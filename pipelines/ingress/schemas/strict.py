"""The two bases of every body: what comes in is checked to the letter, what goes out says only what was set.

Knows no particular body. A field that is not declared is refused by name, numbers are never read out of strings, and NaN and
infinities are refused; null is taken as "not given" wherever OpenAI takes it so.
"""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


class RequestBody(BaseModel):
    """A body, or part of one, that a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=False)


class ResponseBody(BaseModel):
    """A body, or part of one, that a client gets; serialized with `exclude_unset`, so that absent and null stay different."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> bytes:
        return self.model_dump_json(exclude_unset=True).encode()

    def around(self, field: str, empty: str = "[]") -> tuple[bytes, bytes]:
        """Its JSON before and after what is to stand in `field` (its own, or the first of that name within), which is empty here: for
        what is too much to be written at once."""
        text, hole = self.to_json(), f'"{field}":{empty}'.encode()
        at = text.index(hole) + len(hole) - 1
        return text[:at], text[at:]


def _whole(value: object, info: ValidationInfo) -> object:
    """JSON knows one kind of number, so 5.0 is an integer too; a form knows text only."""
    of_form = info.mode not in ("python", "json")  # "string", which the library's own type leaves out
    if isinstance(value, str):
        return int(value) if of_form and _WHOLE_TEXT.fullmatch(value) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE_TEXT = re.compile(r"-?[0-9]{1,20}")
WHOLE = BeforeValidator(_whole)
"""Stands behind an integer's bounds."""
Priority = Annotated[
    int,
    Field(
        ge=-10,
        le=10,
        description="lower runs first; 0 is usual; under 0 only where one tenant is served, or its quotas allow it",
    ),
    WHOLE,
]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), WHOLE]
ModelId = Annotated[str, Field(min_length=1, max_length=256, description="one of GET /v1/models")]
UnsaidModelId = Annotated[
    str,
    Field(max_length=256, description="one of GET /v1/models; may be left out where only one would do"),
    BeforeValidator(lambda given: "" if given is None else given),
]
EndUser = Annotated[str, Field(max_length=512)]


class Extras(RequestBody):
    """Triptych's own fields."""

    priority: Priority = 0


class WholeBody(RequestBody):
    """The whole body of a request. `long_list`: the field of which there may be so much that it is checked in pieces, each as if it were
    all. `token_lists`: the fields that may hold any number of tokens."""

    long_list: ClassVar[str] = ""
    token_lists: ClassVar[frozenset[str]] = frozenset()
    is_run: ClassVar[bool] = True  # by a model, and not only looked at
    triptych: Extras | None = None

    def belongs_to(self) -> str:
        """What the client says that it is part of (a conversation, a user), or ""."""
        named = (getattr(self, field, None) for field in ("prompt_cache_key", "safety_identifier", "user"))
        return next((name for name in named if name), "")

    def asked_priority(self) -> int | None:
        """None: it doesn't say."""
        extras = self.triptych
        return extras.priority if extras is not None and "priority" in extras.model_fields_set else None

    def asked_as(self) -> Mapping[str, str]:
        """What a job, or the payload that it becomes, calls a field -> what this body calls it, where they differ."""
        return {}

    def without_effect(self) -> Mapping[str, str]:
        """Fields that were given, are accepted and change nothing of the answer, and why: told in the receipt."""
        return {}


class AskingBody(WholeBody):
    """Of a request to a model."""

    model: ModelId


class ImageAddress(RequestBody):
    """Where an image is: a data URL (base64 PNG, JPEG, WebP, AVIF, GIF or BMP), or an http(s) address where fetching is
    configured."""

    url: Annotated[str, Field(min_length=1)]
