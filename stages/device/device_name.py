"""What a device is, beside where it is: the model's name, as profiles and datasheets have it (`stages/profiles/`). Decides nothing.

Torch is asked only where it is loaded already.
"""

import sys


def device_name(device: str) -> str:
    """ "cuda:0" is "NVIDIA L4" there; a CPU is "cpu", and what nobody can name is called as it was asked for."""
    torch = sys.modules.get("torch")
    if torch is None or not device.startswith("cuda"):
        return device
    return str(torch.cuda.get_device_name(device))
