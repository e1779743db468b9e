"""The documentation: a site without a warning, messages that exist, commands and settings that are accepted."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.settings.config_file import parse

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROOMS = ("pipelines", "stages", "cache")
ROW = re.compile(r"^\| ((?:\d{3} )?`.*?) \|", re.MULTILINE)
GOES_ON = re.compile(r'"\s*\n\s*f?"')
QUOTED = re.compile(r"`([^`]+)`")
KUBERNETES = {"CreateContainerConfigError"}


def page(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    """(page, code)"""
    for path in sorted(DOCS.glob("*.md")):
        yield from ((path.name, code) for code in re.findall(rf"```{kind}\n(.*?)```", path.read_text(), re.DOTALL))


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "how-it-works" / "index.html").read_text().count("The life of an image-text request") > 1


def sources() -> str:
    """Of all code, with texts that go on in the next line in one piece."""
    files = (path.read_text() for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return "\n".join(GOES_ON.sub("", text) for text in files)


def test_every_message_that_is_explained_is_one_that_the_code_says() -> None:
    said = sources()
    messages = [message for row in ROW.findall(page("troubleshooting.md")) for message in QUOTED.findall(row)]
    assert len(messages) > 30
    missing = [
        message
        for message in messages
        if message not in KUBERNETES
        and not re.search(".*?".join(re.escape(part.strip()) for part in message.split("…")), said)
    ]
    assert missing == []


@pytest.mark.parametrize("command", sorted({line for _, code in blocks("sh") for line in code.splitlines() if line}))
def test_every_option_of_every_command_exists(command: str) -> None:
    """Whether the commands work is tried where they are run: here, that none is of an older version."""
    if command.startswith("make "):
        assert (
            subprocess.run(["make", "--dry-run", command.split()[1]], cwd=ROOT, capture_output=True, check=False).returncode
            == 0
        )
    if command.startswith(".venv/bin/triptych "):
        words = command.split(" >")[0].split()[1:]
        shown = CliRunner().invoke(app, [words[0], "--help"], terminal_width=200).output
        assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in shown] == []
    for path in re.findall(r"(?<![\w/])(?:deploy|locks)/[\w./-]+", command):
        assert path == "deploy/secrets" or (ROOT / path).exists()


def test_the_configuration_examples_are_accepted() -> None:
    """Pools, and what lies over the file, are of what comes before them."""
    models, _, pools = [code for name, code in blocks("yaml") if name == "models.md"]
    assert sorted(parse(yaml.safe_load(models)).models) == ["llava", "sd15"]
    assert parse(yaml.safe_load(models) | yaml.safe_load(pools)).deployments.keys() == {
        "sd15-denoiser-a100",
        "sd15-denoiser-l4",
    }


def test_the_overlays_that_pages_show_are_sound(tmp_path: Path) -> None:
    shown = {code.splitlines()[0].removeprefix("# "): code for _, code in blocks("yaml") if code.startswith("# ")}
    assert set(shown) == {"mine.yaml", "others.yaml"}
    for name, code in shown.items():
        (tmp_path / name).write_text(code)
        checked = CliRunner().invoke(app, ["check", "--overlay", str(tmp_path / name)])
        assert checked.exit_code == 0, checked.output
