"""One server for all tests here, and none beside them: it ends with the last of them."""

from collections.abc import Iterator

import pytest

from tests.cluster.remembering.serving import Remembering
from tests.cluster.remembering.serving import remembering as served


@pytest.fixture(scope="package")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remembering]:
    with served(tmp_path_factory.mktemp("remembering")) as found:
        yield found
