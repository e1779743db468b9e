"""How far pages reach together with what a slot holds."""

import numpy as np
import pytest

from stages.llm.pages.at_hand import PagesAtHand
from stages.llm.pages.kv_page import KvPage


def at_hand(*numbers: int) -> PagesAtHand:
    return PagesAtHand(4, {number: KvPage(np.full(1, number), np.zeros(1)) for number in numbers})


@pytest.mark.parametrize(
    ("numbers", "num_held", "reach", "beyond"),
    [
        ((), 0, 0, []),
        ((), 7, 7, []),
        ((0, 1), 0, 8, [0, 1]),
        ((0, 1), 4, 8, [1]),
        ((0, 1), 6, 8, [1]),
        ((0, 1), 9, 9, []),
        ((1, 2), 0, 0, []),
        ((1, 2), 5, 12, [1, 2]),
        ((0, 2), 0, 4, [0]),
        ((0, 1, 2, 3, 4), 2, 19, [0, 1, 2, 3, 4]),
    ],
)
def test_pages_count_where_they_go_on_from_what_is_held(
    numbers: tuple[int, ...], num_held: int, reach: int, beyond: list[int]
) -> None:
    pages = at_hand(*numbers)
    assert pages.reach(num_held, num_tokens=20) == reach
    assert [page.keys[0] for page in pages.beyond(num_held)] == beyond
