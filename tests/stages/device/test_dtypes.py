"""What "auto" means: within the checkpoint's own type, what the device computes well."""

import json
import struct
from pathlib import Path

import pytest
import torch

from stages.checkpoints.safetensors_headers import stored_dtype
from stages.device.dtypes import choose_dtype

pytestmark = pytest.mark.cpu


def weights(path: Path, **tensors: tuple[str, list[int]]) -> Path:
    """A safetensors file's header; nothing reads further."""
    header = json.dumps({name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in tensors.items()}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def test_the_stored_type_is_that_of_most_weights_over_all_files(tmp_path: Path) -> None:
    first = weights(tmp_path / "1.safetensors", norm=("F32", [64]), layer=("F16", [64, 64]))
    second = weights(tmp_path / "2.safetensors", other=("BF16", [128, 128]), ids=("I64", [1_000_000]))
    assert stored_dtype([first]) == "float16"
    assert stored_dtype([first, second]) == "bfloat16"


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16, struct.pack("<Q", 4) + b"nope"])
def test_a_broken_file_has_no_type_and_is_left_to_the_loader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert stored_dtype([path, tmp_path / "missing.safetensors"]) is None


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("stored", [None, "float32", "bfloat16"])
def test_a_cpu_whose_library_multiplies_no_bfloat16_computes_in_float32(stored: str | None, packed: bool) -> None:
    chosen = choose_dtype("cpu", stored, packed=packed)
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert chosen == "float32"
    assert chosen in ("float32", "bfloat16")


@pytest.mark.parametrize("packed", [True, False])
def test_weights_stored_in_float16_are_never_rounded_to_bfloat16(packed: bool) -> None:
    assert choose_dtype("cpu", "float16", packed=packed) in ("float32", "float16")


def test_the_choice_is_the_same_every_time() -> None:
    assert len({choose_dtype("cpu", None, packed=True) for _ in range(5)}) == 1
