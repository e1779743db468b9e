"""A bench for each test of an engine."""

from collections.abc import Iterator

import pytest

from tests.stages.bench import Bench, workbench


@pytest.fixture(params=[False, True], ids=["", "overlapping"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Stages of rows tell while their devices compute, or not: nobody else sees a difference."""
    with workbench() as bench:
        bench.overlaps = request.param
        yield bench
