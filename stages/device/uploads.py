"""Small things on their way onto a device. Decides that nobody waits for it: a copy out of ordinary memory would first wait for all
that the device has yet to do. Knows no model."""

from torch import Tensor, device


def uploaded(tensor: Tensor, onto: device) -> Tensor:
    """A tensor of this machine's memory there. Whoever computes there next finds it complete."""
    if onto.type != "cuda":
        return tensor.to(onto)
    return tensor.pin_memory().to(
        onto, non_blocking=True
    )  # torch keeps pinned memory, and reuses none that is still being read
