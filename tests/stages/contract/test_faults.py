"""What an error says about the device, for the texts that torch and CUDA really use."""

import pytest
import torch

from stages.contract.errors import InvalidRequest, OutOfMemory, StageFailed
from stages.contract.faults import Fault, fault_of
from stages.engine.work import as_stage_error

OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
    OutOfMemory("the test says so"),
    StageFailed("the sampler failed: CUDA out of memory. Tried to allocate 2.00 MiB"),
]
DEVICE = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("HIP error: the operation cannot be performed in the present state"),
    StageFailed("the sampler failed: CUDA error: device-side assert triggered"),
]
ITEM = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("CUDA error: invalid configuration argument"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    ValueError("CUDA error: device-side assert triggered"),  # quoted, not raised by the device
    InvalidRequest("prompt: CUDA out of memory"),
    StageFailed("the language model computed values that are no numbers"),
]


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        *((error, Fault.OUT_OF_MEMORY) for error in OUT_OF_MEMORY),
        *((error, Fault.DEVICE) for error in DEVICE),
        *((error, Fault.ITEM) for error in ITEM),
    ],
)
def test_an_error_is_known_by_its_class_and_text(error: Exception, fault: Fault) -> None:
    assert fault_of(error) is fault


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY[:-1], *DEVICE, *ITEM])
def test_what_a_requester_would_see_tells_the_same_fault(error: Exception) -> None:
    seen = as_stage_error("stage", error)
    assert fault_of(seen) is fault_of(error)
    assert fault_of(seen.for_request()) is fault_of(error)
