"""What a failed download says of what to do about it. The hub's own answers are in tests/models/test_hub.py."""

import errno

import pytest

from stages.checkpoints.hub import reason_for


class Refused(Exception):
    """As huggingface_hub's HTTP errors: with the response."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.response = self
        self.status_code = status_code


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("the download ended")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "no space left"), ["is full", "set HF_HOME to a folder on another"]),
        (wrapped(OSError(errno.EDQUOT, "quota")), ["is full"]),
        (Refused(403), ["(403)", "set HF_TOKEN"]),
        (Refused(429), ["(429)", "wait, or set HF_TOKEN"]),
        (Refused(503), ["did not give it (Refused: status 503)", "HF_ENDPOINT"]),
        (ValueError(), ["did not give it (ValueError: no reason)"]),
    ],
)
def test_a_reason_tells_what_to_set(error: Exception, told: list[str]) -> None:
    reason = reason_for("org/name", "main", error)
    assert all(part in reason for part in told), reason
