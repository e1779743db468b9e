"""What README and the documentation tell an application developer to type, typed."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster.server import ROOT, Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
EXAMPLES = ["README.md", "docs/index.md", "docs/api.md"]
SHOWN = "http://127.0.0.1:8000"


def code(page: str, kind: str) -> str:
    """All blocks of a kind, one after another."""
    return "\n".join(re.findall(rf"```{kind}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_client_examples_run_as_they_stand(
    page: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of their own, which has the documentation's images."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    examples = code(page, "python")
    assert SHOWN in examples
    names: dict[str, object] = {}
    try:
        exec(examples.replace(SHOWN, server.url), names)
    finally:
        names["client"].close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", EXAMPLES[1:])
def test_the_curl_examples_are_answered(page: str, server: Server) -> None:
    (examples,) = re.findall(r"^curl .*(?:\n.+)*", code(page, "sh"), re.MULTILINE)
    asked = examples.replace(SHOWN, server.url).replace("curl ", "curl --noproxy '*' --fail ")
    answered = subprocess.run(["bash", "-euc", asked], capture_output=True, text=True, check=False)
    assert answered.returncode == 0, answered.stderr
    assert '"choices"' in answered.stdout
