"""What README tells an application developer to type, typed."""

import re

import pytest

from tests.cluster.server import ROOT, Server

pytestmark = pytest.mark.cluster


def test_the_client_example_runs_as_it_stands(server: Server) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "http://127.0.0.1:8000" in code
    names: dict[str, object] = {}
    try:
        exec(code.replace("http://127.0.0.1:8000", server.url), names)
    finally:
        names["client"].close()  # type: ignore[attr-defined]
