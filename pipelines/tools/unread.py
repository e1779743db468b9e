"""A text that comes in pieces, and how what is made of it waits for more.

A reader is a generator: it yields events, and None where it needs more text than has come. What it may have to give back it leaves
where it is. Knows no calls and no thoughts.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from pipelines.tools.events import AnswerEvent

T = TypeVar("T")
Reading: TypeAlias = Generator[AnswerEvent | None, None, T]


class Unread:
    """What has come of a text and is not read yet. `ended`: no more comes."""

    def __init__(self) -> None:
        self.rest = ""
        self.ended = False

    def add(self, text: str) -> None:
        self.rest += text

    def take(self, num_chars: int) -> str:
        taken, self.rest = self.rest[:num_chars], self.rest[num_chars:]
        return taken

    def has(self, at: int) -> Reading[bool]:
        """Whether there is a character at `at`; waits until that is known."""
        while at >= len(self.rest):
            if self.ended:
                return False
            yield None
        return True

    def past_space(self, at: int = 0) -> Reading[int]:
        """Where the first character from `at` stands that is no white space, or the text's end."""
        while True:
            while at < len(self.rest) and self.rest[at].isspace():
                at += 1
            if at < len(self.rest) or self.ended:
                return at
            yield None

    def starts(self, with_: str, at: int = 0) -> Reading[bool]:
        """Whether `with_` stands at `at`; waits while it may yet."""
        while len(self.rest) - at < len(with_) and not self.ended and with_.startswith(self.rest[at:]):
            yield None
        return self.rest.startswith(with_, at)

    def starts_any(self, of: Sequence[str], at: int = 0) -> Reading[str | None]:
        """Which of them stands at `at`."""
        for one in of:
            if (yield from self.starts(one, at)):
                return one
        return None


def told_until(
    source: Unread, markers: Sequence[str], tell: Callable[[str], AnswerEvent], *, trim: bool
) -> Reading["Found | None"]:
    """Tells what comes before the first of `markers` and the white space before it; returns that marker, which is read too, or None at
    the text's end. `trim`: white space at the beginning is not told either."""
    if trim:
        at = yield from source.past_space()
        source.take(at)
    while True:
        found = _first(source.rest, markers)
        if found is not None:
            at, marker = found
            before = source.take(at)
            source.take(len(marker))
            if told := before.rstrip():
                yield tell(told)
            return Found(marker, before[len(told) :])
        told = source.take(len(source.rest) - (0 if source.ended else _held(source.rest, markers)))
        if told:
            yield tell(told)
        if source.ended:
            return None
        yield None


@dataclass(frozen=True, slots=True)
class Found:
    """A marker, and the white space before it."""

    marker: str
    space: str


def _first(text: str, markers: Sequence[str]) -> tuple[int, str] | None:
    found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
    return min(found, key=lambda pair: (pair[0], -len(pair[1])), default=None)


def _held(text: str, markers: Sequence[str]) -> int:
    """How many characters at the end may belong to a marker that has begun, or to the white space before one."""
    if not markers:
        return 0
    begun = max((_overlap(text, marker) for marker in markers), default=0)
    return len(text) - len(text[: len(text) - begun].rstrip())


def _overlap(text: str, marker: str) -> int:
    """The longest beginning of `marker`, but not all of it, that `text` ends with."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
