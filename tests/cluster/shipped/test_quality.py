"""A small sample of every bar of `demo.evaluate`, through the served system with requests side by side.

A change in batching, caching or scheduling that harms what the models say or paint is caught here; whether the models
themselves are good enough is for `python -m demo.evaluate`, with ten times the scenes.
"""

import pytest

from demo.evaluate import BARS, scores
from demo.measuring.over_http import ServedModels
from tests.cluster.server import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

COUNT = 24


@pytest.mark.parametrize("model", ["clip", "projector", "painter"])
def test_a_sample_of_every_bar_is_met_through_the_served_system(server: Server, model: str) -> None:
    found = list(scores(ServedModels(server.url, concurrency=8), COUNT, model))
    assert sum(score.name in BARS for score in found) == {"clip": 1, "projector": 3, "painter": 3}[model]
    missed = [f"{score.name}: {score.num_right} of {score.count}" for score in found if score.share < BARS.get(score.name, 0)]
    assert not missed
