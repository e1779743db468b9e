"""What shares a device.

Pure. Decides how parts of devices are laid onto whole ones: the largest first, each onto the first with room (first fit decreasing). Since
a part is a half of a half, that leaves no device partly filled but the last (Coffman, Garey and Johnson, 1987, divisible items).
"""

from collections import Counter
from collections.abc import Sequence

Layout = tuple[str, ...]


def packed(parts: Sequence[tuple[str, float, int]]) -> Sequence[tuple[int, Layout]]:
    """`parts`: name, part of a device, how many. How many devices look alike, and the names on each."""
    full: Counter[Layout] = Counter()
    begun: Layout = ()
    left = 0.0  # of the one that is begun: always a whole number of the parts that are still to come
    for name, part, count in sorted(parts, key=lambda each: -each[1]):
        taken = min(count, int(left / part))
        begun, left = (*begun, *(name,) * taken), left - taken * part
        if left:
            continue
        full[begun] += 1
        per_device = int(1 / part)
        devices, rest = divmod(count - taken, per_device)
        full[(name,) * per_device] += devices
        begun, left = (name,) * rest, 1 - rest * part if rest else 0.0
    full[begun] += 1
    return [(count, layout) for layout, count in full.items() if layout and count]
