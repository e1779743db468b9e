"""Loading leaves no threads behind."""

import threading
from typing import Any

import pytest

from stages.device.openmp import on_passing_thread
from stages.host.kinds import registry


def test_what_is_computed_on_a_passing_thread_comes_back_and_the_thread_is_gone() -> None:
    thread = on_passing_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_what_is_raised_there_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("no such file")

    with pytest.raises(ValueError, match="no such file"):
        on_passing_thread(fail)


def test_stages_are_loaded_on_a_passing_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loading: list[threading.Thread] = []

    def loaded(spec: Any, kinds: Any) -> Any:
        loading.append(threading.current_thread())

    monkeypatch.setattr(registry, "_loaded", loaded)
    spec: Any = object()
    registry.load(spec)
    assert not loading[0].is_alive()
