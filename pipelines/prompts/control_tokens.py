"""Keeps what a user types from being read as the model's control tokens. Pure; knows no model and no template.

A control token in a user's text is broken in two by a mark that occurs nowhere in the request; the template is applied to the
marked texts; the prompt is then tokenized between the marks, so that no control token can form but the template's own. A text
without control tokens passes unchanged, and its prompt is exactly the model's own. Time grows with the texts' length, however many
control tokens there are: they are looked for together, as a tree of their letters.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from stages.contract.errors import InvalidRequest

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_Tree: TypeAlias = dict[str, Any]
"""From a letter to the tree of what may follow it; "" where a token ends."""


class ControlTokens:
    """The tokens that only a template may write. Those of a single character cannot be broken, and are left alone."""

    def __init__(self, tokens: Iterable[str]) -> None:
        breakable = {token for token in tokens if len(token) > 1}
        self._pattern = re.compile(_alternatives(_tree(breakable)) or "(?!)")
        self._reach = max(map(len, breakable), default=1) - 1  # characters of a token that may lie on one side of a border

    def broken(self, text: str, mark: str) -> str:
        """`text` with `mark` behind the first character of every control token, also of one within another, so that none is left."""
        pieces: list[str] = []
        begin = 0
        found = self._pattern.search(text)
        while found is not None:
            pieces.append(text[begin : found.start() + 1])
            begin = found.start() + 1
            found = self._pattern.search(text, begin)
        return mark.join([*pieces, text[begin:]])

    def broken_apart(self, texts: Sequence[str], mark: str) -> list[str]:
        """The same for texts that will stand one right behind the other: none may form across their borders either."""
        done: list[str] = []
        behind = ""
        for text in texts:
            whole = self.broken(text, mark)
            if self._pattern.search(behind + whole[: self._reach]):
                whole = mark + whole
            done.append(whole)
            behind = (behind + whole)[-self._reach :] if self._reach else ""
        return done


def _tree(tokens: Iterable[str]) -> _Tree:
    root: _Tree = {}
    for token in tokens:
        branch = root
        for letter in token:
            branch = branch.setdefault(letter, {})
        branch[""] = {}
    return root


def _alternatives(tree: _Tree) -> str:
    """A pattern of the tree's tokens, the longest first where one begins with another."""
    branches = [re.escape(letter) + _alternatives(branch) for letter, branch in sorted(tree.items()) if letter]
    if not branches:
        return ""
    if len(branches) == 1 and "" not in tree:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if '' in tree else ''}"


def unused_mark(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of `texts`. Raises `InvalidRequest` where they hold every one."""
    used = set().union(*texts)
    mark = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
    if mark is None:
        raise InvalidRequest("messages hold every private-use character of plane 15; leave one out", param="messages")
    return mark
