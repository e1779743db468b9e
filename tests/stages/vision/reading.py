"""Which tensors are read from safetensors files while `transformers` loads something."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class RecordingSlice:
    """A tensor in a file; reading any of it is recorded."""

    def __init__(self, inner: Any, name: str, read: set[str]) -> None:
        self._inner, self._name, self._read = inner, name, read

    def __getitem__(self, key: Any) -> Any:
        self._read.add(self._name)
        return self._inner[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class RecordingFile:
    """A safetensors file whose tensors record that they are read."""

    def __init__(self, inner: Any, read: set[str]) -> None:
        self._inner, self._read = inner, read

    def get_slice(self, name: str) -> RecordingSlice:
        return RecordingSlice(self._inner.get_slice(name), name, self._read)

    def get_tensor(self, name: str) -> Any:
        self._read.add(name)
        return self._inner.get_tensor(name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> "RecordingFile":
        self._inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inner.__exit__(*error)


@contextmanager
def tensors_read() -> Iterator[set[str]]:
    """The names of the tensors that are read while the context is open."""
    from transformers import modeling_utils

    read: set[str] = set()
    real = modeling_utils.safe_open
    modeling_utils.safe_open = lambda *args, **kwargs: RecordingFile(real(*args, **kwargs), read)
    try:
        yield read
    finally:
        modeling_utils.safe_open = real
