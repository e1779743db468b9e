"""A bench for each test of an engine."""

from collections.abc import Iterator

import pytest

from tests.stages.bench import Bench, workbench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with workbench() as bench:
        yield bench
