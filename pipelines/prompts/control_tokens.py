"""Keeps what a user types from being read as the model's control tokens. Pure; knows no model and no template.

A control token in a user's text is broken in two by a mark that occurs nowhere in the request; the template is applied to the
marked texts; the prompt is then tokenized between the marks, so that no control token can form but the template's own. A text
without control tokens passes unchanged, and its prompt is exactly the model's own.
"""

import re
from collections.abc import Iterable, Sequence

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class ControlTokens:
    """The tokens that only a template may write. Those of a single character cannot be broken, and are left alone."""

    def __init__(self, tokens: Iterable[str]) -> None:
        longest_first = sorted({token for token in tokens if len(token) > 1}, key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def broken(self, text: str, mark: str) -> str:
        """`text` with `mark` inside every control token, so that none is left."""
        while True:
            text, count = self._pattern.subn(lambda found: found[0][0] + mark + found[0][1:], text)
            if not count:
                return text

    def broken_apart(self, texts: Sequence[str], mark: str) -> list[str]:
        """The same for texts that will stand one right behind the other: none may form across their borders either."""
        done: list[str] = []
        for text in texts:
            whole = self.broken(text, mark)
            if done and self._pattern.search("".join(done) + whole):
                whole = mark + whole
            done.append(whole)
        return done


def unused_mark(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of `texts`."""
    used = set().union(*texts)
    return next(chr(code) for code in _PRIVATE_USE if chr(code) not in used)
