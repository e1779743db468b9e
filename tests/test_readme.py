"""README's commands exist and its configuration is sound. (`tests/cluster/test_readme.py` runs its client example.)"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pipelines.settings.config_file import parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINKS = re.findall(r"\]\(([^)#:]+)\)", README)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", README))))
def test_every_make_command_is_a_target(target: str) -> None:
    shown = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_the_configuration_example_is_accepted() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert sorted(parse(yaml.safe_load(example)).models) == ["llava", "sd15"]


@pytest.mark.parametrize("path", LINKS)
def test_every_link_leads_to_a_file(path: str) -> None:
    assert (ROOT / path).exists()
