"""Parts of devices fill whole ones: halves of halves leave no device partly filled but the last."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipelines.planning.telling.packing import packed

PARTS = st.lists(st.tuples(st.sampled_from([1.0, 0.5, 0.25, 0.125]), st.integers(0, 40)), max_size=8)


@given(PARTS)
def test_as_many_devices_are_filled_as_the_parts_add_up_to(parts: list[tuple[float, int]]) -> None:
    named = [(str(at), part, count) for at, (part, count) in enumerate(parts)]
    sizes = {name: part for name, part, _ in named}
    layouts = packed(named)
    assert sum(count for count, _ in layouts) == math.ceil(sum(part * count for part, count in parts))
    assert all(sum(sizes[name] for name in layout) <= 1 for _, layout in layouts)
    placed = Counter[str]()
    for count, layout in layouts:
        for name in layout:
            placed[name] += count
    assert placed == Counter({name: count for name, _, count in named if count})
