"""What a client sees of one request: when it heard something, what it was told, how often it had to ask, how it ended. And when it asks
again, as OpenAI's SDK does by itself. Pure: moments come in as numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.mixed.requests import Request

MAX_TRIES = 3
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
RETRY_AFTER, SHOULD_RETRY = "retry-after", "x-should-retry"


@dataclass(slots=True)
class Asked:
    """A request under way or through, owned by who asks it. Seconds of one clock. `heard`: when something came (an event of a stream, a
    whole answer). `told`: the text, or the encoded image. `lost`: the stages whose replica ended under it, by its receipt. `error`: what
    was said, where it had no answer. `status`: of the last try; 0: no answer came, None: none yet."""

    request: Request
    sent_at: float
    heard: list[float] = field(default_factory=list)
    told: str = ""
    tries: int = 1
    lost: list[str] = field(default_factory=list)
    status: int | None = None
    error: str = ""
    retry_after_s: float | None = None
    ended_at: float | None = None

    @property
    def has_failed(self) -> bool:
        return bool(self.error)

    @property
    def num_heard(self) -> int:
        return len(self.heard)

    def is_running(self, at: float) -> bool:
        return self.sent_at <= at and (self.ended_at is None or at < self.ended_at)

    def longest_pause_s(self, since: float = float("-inf")) -> float:
        """The longest time from `since` on in which nothing came, from its sending to its end."""
        end = [self.ended_at] if self.ended_at is not None else []
        moments = [self.sent_at, *self.heard, *end]
        return max(
            (later - max(earlier, since) for earlier, later in itertools.pairwise(moments) if later > since), default=0.0
        )


def again_after_s(status: int, headers: Mapping[str, str], tries: int) -> float | None:
    """In how many seconds a request that has failed is made again; None: it isn't. `status` 0: no answer came. `headers`: with names in
    small letters. `tries`: how often it was made."""
    if tries >= MAX_TRIES or headers.get(SHOULD_RETRY) == "false":
        return None
    if not (status in (0, 408, 409, 429) or status >= 500):
        return None
    wait_s = retry_after_s(headers)
    return wait_s if wait_s is not None else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """None where there is none, or it is no number of seconds."""
    told = headers.get(RETRY_AFTER, "")
    return float(told) if told.replace(".", "", 1).isdigit() else None
