"""Every bound that `Sampling` declares is kept, at both ends, and told with its field."""

import math
from dataclasses import replace
from typing import Any

import pytest

from stages.contract.errors import InvalidRequest
from stages.llm.messages import Sampling
from stages.llm.sampling.bounds import check_bounds

PLAIN = Sampling(max_tokens=1)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("max_tokens", [0, 1], [-1]),
        ("temperature", [0.0, 2.0], [-0.1, 2.1, math.nan]),
        ("top_p", [0.001, 1.0], [0.0, 1.1]),
        ("top_k", [0, 2**31 - 1], [-1, 2**31]),
        ("min_p", [0.0, 1.0], [-0.1, 1.1]),
        ("repetition_penalty", [0.001, 100.0], [0.0, -1.0, math.inf]),
        ("frequency_penalty", [-2.0, 2.0], [-2.1, 2.1]),
        ("presence_penalty", [-2.0, 2.0], [-2.1, 2.1]),
        ("logprobs", [None, 0, 20], [-1, 21]),
        ("logit_bias", [{}, {5: -100.0, 6: 100.0}], [{5: 0.0, 6: 100.1}, {5: -100.1}]),
    ],
)
def test_values_at_the_bounds_are_taken_and_those_outside_are_told(name: str, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        check_bounds(replace(PLAIN, **{name: value}))
    for value in outside:
        with pytest.raises(InvalidRequest, match=f"^{name} .* is not allowed; it is ") as refused:
            check_bounds(replace(PLAIN, **{name: value}))
        assert refused.value.param == name


def test_a_bound_is_told_in_full() -> None:
    with pytest.raises(InvalidRequest, match=r"^top_p 1\.5 is not allowed; it is more than 0 and at most 1$"):
        check_bounds(replace(PLAIN, top_p=1.5))
