"""W3C trace context as it stands in headers (https://www.w3.org/TR/trace-context/). Pure."""

import re
from dataclasses import dataclass

from stages.contract.trace import Trace

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
MAX_STATE_CHARS, MAX_STATE_MEMBERS = 512, 32


@dataclass(frozen=True, slots=True)
class Ids:
    trace_id: int
    span_id: int
    flags: int


def parsed(traceparent: str) -> Ids | None:
    """None: it is none, and the trace begins here. Of versions to come the first four fields are read, as the standard asks."""
    found = _PARENT.fullmatch(traceparent)
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5] is not None):
        return None
    ids = Ids(int(found[2], 16), int(found[3], 16), int(found[4], 16) & 1)
    return ids if ids.trace_id and ids.span_id else None


def given_in(headers: list[tuple[bytes, bytes]]) -> Trace | None:
    """What a caller says its request is a part of. None: nothing, or nothing that can be read. A state that is none is left out."""
    parents = [value for name, value in headers if name == b"traceparent"]
    parent = parents[0].decode("latin-1").strip() if len(parents) == 1 else ""
    if parsed(parent) is None:
        return None
    state = ",".join(value.decode("latin-1").strip() for name, value in headers if name == b"tracestate")
    return Trace(parent, state if _is_state(state) else "")


def _is_state(state: str) -> bool:
    members = state.split(",")
    keys = {member.partition("=")[0] for member in members}
    is_short = len(state) <= MAX_STATE_CHARS and len(members) <= MAX_STATE_MEMBERS
    return is_short and len(keys) == len(members) and all(_MEMBER.fullmatch(member) for member in members)
