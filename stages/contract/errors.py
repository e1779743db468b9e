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

from copy import copy
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
        own = copy(self)
        own.__cause__ = self.__cause__
        own.fault = self.fault
        if param is not None:
            own.param, own.message = param, _renamed(self.message, self.param, param)
            own.args = (own.message,)
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.param, self.retry_after_s, self.detail)

    def __str__(self) -> str:
        return self.message if self.detail is None else f"{self.message} [{self.detail}]"


def _renamed(message: str, field: str | None, param: str) -> str:
    rest = message.removeprefix(field or "")
    return param + rest if rest != message and not rest[:1].isidentifier() else message


def _rebuild(
    kind: type[TriptychError], message: str, param: str | None, retry_after_s: float | None, detail: str | None
) -> TriptychError:
    return kind(message, param=param, retry_after_s=retry_after_s, detail=detail)


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
