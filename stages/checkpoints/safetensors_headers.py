"""Which tensors safetensors files hold, from their headers alone (https://github.com/huggingface/safetensors#format). Knows no torch."""

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES_AT_MOST = 100 * 2**20
_STORED = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`dtype` as the format spells it: "F32", "BF16", "F16", "I64", ..."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def stored_tensors(files: Iterable[Path]) -> Iterator[StoredTensor]:
    """Those of all files that are safetensors. What can't be read is passed over: loading it will tell."""
    for path in files:
        for name, tensor in _header(path).items() if path.suffix == ".safetensors" else ():
            if name != "__metadata__" and isinstance(tensor, dict):
                yield StoredTensor(name, str(tensor.get("dtype")), tuple(tensor.get("shape", ())))


def _header(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length <= _HEADER_BYTES_AT_MOST else {}
    except (OSError, ValueError, struct.error):
        return {}
    return header if isinstance(header, dict) else {}


def stored_dtype(files: Iterable[Path]) -> str | None:
    """The type that most of the weights in safetensors files are stored in; None where there are none."""
    elements: Counter[str] = Counter()
    for tensor in stored_tensors(files):
        if tensor.dtype in _STORED:
            elements[_STORED[tensor.dtype]] += math.prod(tensor.shape)
    return elements.most_common(1)[0][0] if elements else None
