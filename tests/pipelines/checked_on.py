"""Where what answers must be is checked: never on the event loop, however short it is."""

import threading

import pytest

from stages.llm.messages import Constraint
from stages.llm.structure.grammars import grammar


class CheckedOn:
    """The threads that what answers must be is checked on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[threading.Thread] = []
        monkeypatch.setattr("stages.llm.structure.checking.grammar", self._grammar)

    def _grammar(self, constraint: Constraint) -> str:
        self.threads.append(threading.current_thread())
        return grammar(constraint)

    @property
    def is_off_loop(self) -> bool:
        """Of one check at least, by the event loop's thread."""
        return bool(self.threads) and threading.current_thread() not in self.threads
