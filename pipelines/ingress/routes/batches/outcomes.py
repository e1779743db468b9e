"""What came of a batch's lines, as it is written down meanwhile and as it stands in the files at the end. Pure, and for all of a batch
together too long for an event loop: a batch's answers may be hundreds of megabytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one line, as it will stand in a file. `is_good`: in that of the answers."""

    number: int
    is_good: bool
    text: str


def part_of(outcomes: Iterable[Outcome]) -> bytes:
    return json.dumps([[each.number, each.is_good, each.text] for each in outcomes]).encode()


def read_part(part: bytes) -> Sequence[Outcome]:
    return [Outcome(number, is_good, text) for number, is_good, text in json.loads(part)]


def file_of(outcomes: Mapping[int, Outcome], *, is_good: bool) -> bytes:
    """One a line, in the order of the lines they are of. Empty: there are none."""
    texts = [outcome.text for _, outcome in sorted(outcomes.items()) if outcome.is_good == is_good]
    return "".join(f"{text}\n" for text in texts).encode()
