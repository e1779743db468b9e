"""Everything that can go wrong, in one tree. Knows no HTTP: `pipelines/ingress/request/errors.py` maps it.

    TriptychError
    ├── InvalidRequest            the request is at fault: names the field, the value and the limit
    │   ├── TooLarge              it is bigger than a configured limit
    │   └── UnknownModel          it asks for something that is not served
    ├── NotAuthorized             no key, or a wrong one
    ├── Overloaded                try again in `retry_after_s`
    │   ├── QueueFull             a bounded queue is full
    │   └── Unavailable           no live replica, or a replica died under the request: it may be run elsewhere
    │       ├── Broken            its device broke, or never came back, while the request was there
    │       ├── Unreadable        it, or who called it, is of another version, and can't read what was sent
    │       └── InputUnavailable  a stage elsewhere, whose result it needs, is: running it elsewhere is no use
    ├── DeadlineExceeded          the request's time is up
    ├── Cancelled                 the client went away, or asked to stop
    ├── ConfigurationError        the configuration is at fault: names the path, the value and what is allowed
    └── StageFailed               a stage failed on this item, which the client could not have prevented
        ├── OutOfMemory           the device had too little memory for this batch: a smaller one may fit
        └── ReplicaLost           the process that ran it ended, and so did the one that tried again: it may be what ends them

Every error survives pickling (it crosses processes), and its message tells value, limit and the setting to change. What only a log
may tell (a library's text, a path, an address) is its `detail`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Self


class TriptychError(Exception):
    """Root of the tree. `message` is for people, also strangers; `detail`, with which `str` goes on, for whoever reads the log; `code` is
    stable, for programs; `param` is the request's field, if one is at fault."""

    code = "error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None, detail: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.detail = message, detail
        self.param = param
        self.retry_after_s = retry_after_s
        self.fault: str | None = (
            None  # what the error behind it said about the device (`stages/contract/faults.py`), where that is known
        )

    def for_request(self, param: str | None = None) -> Self:
        """A copy for one of the requests that this concerns, with the field that is at fault there (None: as it is here), also
        where the message begins with it. An error that several requests share would tell each of them of the others' fields,
        and gather their tracebacks."""
        own = type(self)(self.message, param=self.param, retry_after_s=self.retry_after_s, detail=self.detail)
        own.__cause__ = self.__cause__
        own.fault = self.fault
        if param is not None:
            own.param, own.message = param, _renamed(self.message, self.param, param)
            own.args = (own.message,)
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        """By names, as `stages/contract/message.py` has it. A process of an earlier version, which doesn't know the class, is raised the
        nearest of its bases."""
        kinds = tuple(
            f"{kind.__module__}:{kind.__qualname__}" for kind in type(self).__mro__ if issubclass(kind, TriptychError)
        )
        told = {"message": self.message, "param": self.param, "retry_after_s": self.retry_after_s, "detail": self.detail}
        return read_error, (kinds, {name: value for name, value in told.items() if value is not None})

    def __str__(self) -> str:
        return self.message if self.detail is None else f"{self.message} [{self.detail}]"


def _renamed(message: str, field: str | None, param: str) -> str:
    rest = message.removeprefix(field or "")
    return param + rest if rest != message and not rest[:1].isidentifier() else message


def read_error(kinds: Sequence[str], told: Mapping[str, Any]) -> TriptychError:
    """By pickle, which holds its name: it stays where it is. What is told beyond what is known here is left out."""
    known = {name: told[name] for name in ("param", "retry_after_s", "detail") if name in told}
    kind = next((found for where in kinds if (found := _error_class(where)) is not None), TriptychError)
    return kind(told.get("message", kind.code), **known)


def _error_class(where: str) -> type[TriptychError] | None:
    module, _, name = where.partition(":")
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, TriptychError) else None


class InvalidRequest(TriptychError):
    code = "invalid_value"


class TooLarge(InvalidRequest):
    code = "too_large"


class UnknownModel(InvalidRequest):
    code = "model_not_found"


class NotAuthorized(TriptychError):
    code = "invalid_api_key"


class Overloaded(TriptychError):
    code = "overloaded"


class QueueFull(Overloaded):
    code = "queue_full"


class Unavailable(Overloaded):
    code = "unavailable"


class Broken(Unavailable):
    """Told to whoever was there; that it may be run elsewhere is for `pipelines/cluster/serve_client.py` to know."""


class Unreadable(Unavailable):
    """What can't be read by one replica, another may read: `pipelines/cluster/attempts.py`. While a cluster is updated, never else."""


class InputUnavailable(Unavailable):
    """Whoever calls the stage that makes it has tried again already."""


class DeadlineExceeded(TriptychError):
    code = "deadline_exceeded"


class Cancelled(TriptychError):
    code = "cancelled"


class ConfigurationError(TriptychError):
    code = "configuration_error"


class StageFailed(TriptychError):
    code = "stage_failed"


class OutOfMemory(StageFailed):
    """Raised by a stage that nothing else tells of its device's memory; engines make it fit, or a `TooLarge`."""


class ReplicaLost(StageFailed):
    """Never run again for whoever asks the same once more: that might end further processes."""

    code = "replica_lost"
