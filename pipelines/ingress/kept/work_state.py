"""What is known of a piece of kept work, as it is written down. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from pipelines.ingress.kept import records

JsonObject = Mapping[str, Any]


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (Status.DONE, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class WorkState:
    """`created`, `started`, `ended`, `until`: seconds since 1970; `until`: when it must be done. `tries`: how many processes have begun it.
    `about`: what its submitter noted; `told`: how far it is, or what came of it; `error`: why it failed, in OpenAI's shape."""

    id: str
    created: float
    until: float
    status: Status = Status.QUEUED
    tries: int = 0
    started: float | None = None
    ended: float | None = None
    about: JsonObject = field(default_factory=dict)
    told: JsonObject = field(default_factory=dict)
    error: JsonObject | None = None

    def to_bytes(self) -> bytes:
        return records.to_bytes(self)

    @classmethod
    def of(cls, data: bytes) -> Self | None:
        """None: it is none, or another version's."""
        found = records.of_bytes(cls, data)
        try:
            return replace(found, status=Status(found.status)) if found is not None else None
        except ValueError:
            return None
