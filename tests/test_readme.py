"""README's commands exist and its configuration is sound; what SECURITY.md names as proof is there.
(`tests/cluster/shipped/test_readme.py` runs README's client example.)"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.settings.config_file import parse
from pipelines.settings.placement import homes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
LINK = re.compile(r"\]\(([^)#:]+)\)")
LINKS = sorted({*LINK.findall(README), *LINK.findall(SECURITY)})


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z]+)", README)) | set(re.findall(r"`make ([a-z]+)`", SECURITY)))
)
def test_every_make_command_is_a_target(target: str) -> None:
    shown = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_the_configuration_examples_are_accepted() -> None:
    """The second is of the first one's models."""
    whole, pools = (yaml.safe_load(example) for example in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL))
    assert sorted(parse(whole).models) == ["llava", "sd15"]
    assert len(homes(parse(whole | pools))["sd15.denoiser"]) == 2


@pytest.mark.parametrize("path", LINKS)
def test_every_link_leads_to_a_file(path: str) -> None:
    assert (ROOT / path).exists()
