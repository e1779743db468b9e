"""How a configured limit is told where a request goes over it: the value, the limit and the setting's name, which is said here
only. Knows no fields of requests.
"""

from pipelines.settings.schema.config import LimitsConfig
from stages.contract.errors import InvalidRequest


def check_value(value: int | None, limits: LimitsConfig, name: str, *, param: str) -> None:
    """Raises `InvalidRequest` where a field's value is over the limit `name`."""
    limit = getattr(limits, name)
    if value is not None and limit is not None and value > limit:
        raise InvalidRequest(f"{param} {value} is over the limit of {limit} (limits.{name})", param=param)


def check_count(count: int, limits: LimitsConfig, name: str, *, param: str, holds: str, where: str = "") -> None:
    """Raises `InvalidRequest` where a field holds more of something ("images") than the limit `name`. `where`: the field's
    name in the message, where it is not `param`."""
    limit = getattr(limits, name)
    if count > limit:
        raise InvalidRequest(f"{where or param} holds {count} {holds}; at most {limit} (limits.{name})", param=param)


def check_length(num_chars: int, limits: LimitsConfig, *, param: str) -> None:
    """Raises `InvalidRequest` for more text than is configured."""
    check_count(num_chars, limits, "prompt_chars", param=param, holds="characters of text")
