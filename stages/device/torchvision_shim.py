"""Makes `import torchvision` work where its compiled operators don't load.

A torchvision built for CUDA beside a CPU build of torch fails at import (`operator torchvision::nms does not exist`), and
takes open_clip and every transformers image processor with it. Declaring the two operators first is enough: nothing here calls
them. Knows nothing of models; call `ensure_torchvision` before importing `open_clip`, or anything of `transformers` that
handles images.
"""

import importlib.util
from typing import Any

_NMS = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_QNMS = "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[object] = []  # torch drops a library's declarations when the object dies


def ensure_torchvision() -> None:
    """Imports torchvision, declaring its missing operators first where they don't load. Safe to call again, in any process."""
    if _libraries or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _declare_operators()
        _forget_half_imported()
        import torchvision  # noqa: F401


def _declare_operators() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define(_NMS)
    library.define(_QNMS)
    _libraries.append(library)


def _forget_half_imported() -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
