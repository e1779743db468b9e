"""Texts that are hard on whoever reads them, and what reading one costs beside plain text of the same length.

Effort is the process's CPU time, so neighbours on the machine don't count; the plain text is read in the same process. Bounds are far
over what any machine was seen to take, and far under what a way costs that grows with the square of a text's length.
"""

import random
import time
from collections.abc import Callable

from hypothesis import strategies as st

UNITS = {
    "a word": "a",
    "another word": "qxjz",
    "a word of many merges": "".join(random.Random(0).choices("etaoinshrdlu", k=3_000)),
    "spaces": " ",
    "spaces and tabs": " \t",
    "lines": "\n",
    "short lines": "a\n",
    "lines of nothing": "\0\n",
    "windows lines": "\r\n",
    "quotes": "'",
    "short forms": "'s",
    "digits": "7",
    "digits apart": "7 ",
    "punctuation": "!",
    "angle brackets": "<",
    "ampersands": "&",
    "references": "&amp;",
    "unfinished references": "&" + "a" * 32,
    "references by number": "&#9",
    "escapes": "\x1b[0;",
    "joiners": "\u200d",
    "joined images": "👩\u200d",
    "flags": "🇩🇪",
    "marks": "\u0301",
    "marks out of order": "\u0301\u0323",
    "marks of one character": "\u0f73",
    "letters with many marks": "e" + "\u0301\u0323" * 300,
    "a ligature of 18 letters": "\ufdfa",
    "ligatures": "ﬃ",
    "hangul in parts": "\u1100\u1161\u11a8",
    "capitals that grow": "İ",
    "wide letters": "Ａ",
    "read in a wrong encoding": "Ã©",
    "read in a wrong encoding twice": "ÃƒÂ©",
    "controls": "\x85\x93",
    "from right to left": "\u202eא",
    "private use": "\U000f0000",
    "characters of no plane": "\U0010ffff",
    "nothing": "\0",
    "han": "東",
    "thai": "กำ",
    "word marks": "▁",
    "bytes": "<0x41>",
}
PLAIN = "The quick brown fox jumps over the lazy dog, and 12 größere Sterne; a photograph of it.\n"

units = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5) | st.sampled_from(sorted(UNITS.values()))


def repeated(unit: str, num_chars: int) -> str:
    return (unit * (num_chars // len(unit) + 1))[:num_chars]


def effort_s(work: Callable[[str], object], text: str) -> float:
    best = float("inf")
    for _ in range(2):
        begin = time.process_time()
        work(text)
        best = min(best, time.process_time() - begin)
    return best


MOST_TIMES_PLAIN = 400
"""Of a text of 20,000 characters: 18 letters for each one (a ligature's) take 25 to 50 times the plain text's. Words merged pair by
pair, marks sorted one by one and patterns that start anew at each character took 1,600 and more."""


def times_plain(work: Callable[[str], object], unit: str, num_chars: int) -> float:
    """How many times as long the hostile text takes as the plain one."""
    plain = max(effort_s(work, repeated(PLAIN, num_chars)), 0.002)
    return effort_s(work, repeated(unit, num_chars)) / plain
