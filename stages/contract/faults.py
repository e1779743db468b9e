"""What a stage's error says about its device: whether it is the item's, or memory ran out, or the device is gone. Pure.

Decides by the error's class and text, so that no engine imports torch: a CUDA error is a `RuntimeError` like any other, and
only its text tells one that stays (every later call in this process fails, too) from one that doesn't.
"""

import re
from enum import StrEnum

from stages.contract.errors import InvalidRequest, OutOfMemory, StageFailed, TriptychError


class Fault(StrEnum):
    ITEM = "item"
    OUT_OF_MEMORY = "out_of_memory"
    DEVICE = "device"


_MEMORY_CLASSES = {"OutOfMemoryError", "MemoryError"}  # torch's, and Python's
_MEMORY_TEXTS = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) (error: )?out of memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    r"|DefaultCPUAllocator: (can't allocate|not enough) memory",
    re.IGNORECASE,
)
_DEVICE_TEXTS = re.compile(
    r"(CUDA|HIP) error: (?!out of memory|invalid argument|invalid configuration|invalid device function|no kernel image"
    r"|too many resources requested|operation not supported)"
    r"|device-side assert|illegal memory access|uncorrectable ECC|unspecified launch failure"
    r"|CUDNN_STATUS_EXECUTION_FAILED|CUBLAS_STATUS_EXECUTION_FAILED",
    re.IGNORECASE,
)
"""Of the CUDA runtime's errors, those that the lookahead names leave the context as it was; after others only a new process
helps (CUDA Runtime API, "Error handling": sticky errors)."""


def fault_of(error: BaseException) -> Fault:
    """A request that is at fault itself (`InvalidRequest`) never accuses the device."""
    if isinstance(error, InvalidRequest):
        return Fault.ITEM
    if isinstance(error, TriptychError) and error.fault is not None:
        return Fault(error.fault)
    text = str(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OutOfMemory) or names & _MEMORY_CLASSES or _MEMORY_TEXTS.search(text):
        return Fault.OUT_OF_MEMORY
    could_be_device = isinstance(error, RuntimeError | StageFailed)  # other classes may quote anything
    return Fault.DEVICE if could_be_device and _DEVICE_TEXTS.search(text) else Fault.ITEM
