"""The memory of the device that a process computes on: how much is free, and giving back what is cached. Decides nothing.

Torch is asked only where it is loaded already: an engine with a stage that needs none must not load it.
"""

import sys
from pathlib import Path
from typing import Any

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def empty_cache(device: str) -> None:
    """Gives back what torch keeps for later. Of a CPU's memory it keeps nothing. Never raises: the device may be broken."""
    cuda = _cuda(device)
    if cuda is not None:
        try:
            cuda.empty_cache()
        except RuntimeError:
            return


def free_bytes(device: str) -> int | None:
    """What can still be allocated there; None: nobody can tell. On a CPU within the container's limit, if there is one."""
    cuda = _cuda(device)
    if cuda is not None:
        free, _ = cuda.mem_get_info(device)
        return int(free)
    if device != "cpu":
        return None
    free_of_machine = int(psutil.virtual_memory().available)
    left = _left_in_container()
    return free_of_machine if left is None else min(free_of_machine, left)


def memory_used(device: str) -> dict[str, float]:
    """Bytes that this process has of the host's memory; and, of an accelerator's, all that is used, by whomever, and all there is."""
    used = {"process_memory_bytes": float(psutil.Process().memory_info().rss)}
    cuda = _cuda(device)
    if cuda is not None:
        try:
            free, total = cuda.mem_get_info(device)
        except RuntimeError:  # it may be broken
            return used
        used |= {"device_memory_used_bytes": float(total - free), "device_memory_total_bytes": float(total)}
    return used


def _cuda(device: str) -> Any:
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and device.startswith("cuda") else None


def _left_in_container() -> int | None:
    """By cgroup version 2; page cache counts as free, as it does for a whole machine."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cached = sum(int(stat.get(name, 0)) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    return max(0, int(limit) - used + cached)
