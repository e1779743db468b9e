"""Keys, secrets and passwords: where they may come from, which are refused, and that nothing ever tells them."""

import hashlib
import itertools
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.ingress.request.settings import settings_of
from pipelines.settings.config_file import load, parse
from pipelines.settings.environment import secret_of
from pipelines.settings.private_redis import embedded_directory, socket_url
from pipelines.settings.schema.config import AppConfig
from pipelines.settings.serve.specs import cache_spec
from stages.contract.errors import ConfigurationError
from tests.pipelines.settings.shipped import changed

KEY = "0123456789abcdef-hunter2"


def test_a_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(changed("auth", {"keys": [{"tenant": "a", "env": "TRIPTYCH_TEST_KEY"}]}))
    with pytest.raises(ConfigurationError, match="TRIPTYCH_TEST_KEY is not set"):
        config.auth.keys[0].digests()
    monkeypatch.setenv("TRIPTYCH_TEST_KEY", KEY)
    assert config.auth.tenants() == {hashlib.sha256(KEY.encode()).hexdigest(): "a"}


@pytest.mark.parametrize("around", ["{}", "{}\n", "  {}\r\n", "\t{} "])
def test_white_space_around_a_key_or_a_secret_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    (tmp_path / "key").write_text(around.format(KEY), newline="")
    monkeypatch.setenv("TRIPTYCH_TEST_KEY", around.format(KEY))
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    for named, secret in (
        ({"env": "TRIPTYCH_TEST_KEY"}, {"secret_env": "TRIPTYCH_TEST_KEY"}),
        ({"file": f"{tmp_path}/key"}, {"secret_file": f"{tmp_path}/key"}),
        ({"sha256": around.format(digest.upper())}, {"secret_env": "TRIPTYCH_TEST_KEY"}),
    ):
        auth = parse(changed("auth", {"keys": [{"tenant": "a", **named}], **secret})).auth
        assert (auth.tenants(), auth.secret()) == ({digest: "a"}, KEY.encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"short-key\n", "9 characters"),
        (b"\xff" * 20, "not text in UTF-8"),
        (b"x" * 100_000, "over 65536 bytes"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_key_that_is_none_or_could_be_guessed_is_refused_with_a_reason_and_not_told(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    auth = parse(
        changed("auth", {"keys": [{"tenant": "a", "file": f"{tmp_path}/key"}], "secret_file": f"{tmp_path}/key"})
    ).auth
    for read in (auth.tenants, auth.secret):
        with pytest.raises(ConfigurationError, match=told) as refused:
            read()
        assert "auth." in refused.value.message
        assert "short-key" not in refused.value.message


def test_one_key_for_two_tenants_is_refused_wherever_each_of_them_has_it_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("TRIPTYCH_TEST_KEY", KEY + "\n")
    places = [
        {"env": "TRIPTYCH_TEST_KEY"},
        {"file": str(tmp_path / "key")},
        {"sha256": hashlib.sha256(KEY.encode()).hexdigest()},
    ]
    for one, other in itertools.permutations(places, 2):
        given = {"keys": [{"tenant": "a", **one}, {"tenant": "b", **other}], "secret_env": "TRIPTYCH_TEST_KEY"}
        with pytest.raises(ConfigurationError, match="tenants a and b have the same key") as refused:
            parse(changed("auth", given)).auth.tenants()
        assert KEY not in refused.value.message


def test_a_secret_is_masked_wherever_it_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_TEST_KEY", KEY)
    secret = secret_of(env="TRIPTYCH_TEST_KEY", file=None, setting="x")
    assert KEY not in f"{secret} {secret!r} {[secret]} {asdict(settings_of(parse(changed('limits', {}))))}"
    auth = {"keys": [{"tenant": "a", "env": "TRIPTYCH_TEST_KEY"}], "secret_env": "TRIPTYCH_TEST_KEY"}
    settings = settings_of(parse(changed("auth", auth)))
    assert settings.secret == KEY.encode()
    assert KEY not in f"{settings!r} {settings.key_ring()!r}"


def test_a_key_in_the_wrong_place_is_not_quoted_by_whoever_else_checks_the_settings() -> None:
    """Ray Serve has `build`'s settings checked itself, and prints what pydantic says."""
    for path, value in (
        ("auth", {"keys": [{"tenant": "a", "sha256": KEY}]}),
        ("auth", {"keys": KEY}),
        ("cache.redis", {"url": f"redis://:{KEY}@cache"}),
        ("cache", {"redis": f"redis://:{KEY}@cache"}),
    ):
        with pytest.raises(ValidationError) as refused:
            AppConfig.model_validate(changed(path, value))
        assert KEY not in str(refused.value)
        assert KEY not in repr(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        'applications: [{args: {auth: {keys: [{sha256: "hunter2-hunter2-hunter2',
        "applications: [{args: {auth: {keys: [{sha256: *hunter2-hunter2-hunter2",
        "applications: {args: {auth: {keys: [{sha256: hunter2-hunter2-hunter2}]}}}",
        "applications: [[{args: {auth: {keys: [{sha256: hunter2-hunter2-hunter2}]}}}]]",
        "applications: [{name: a, import_path: pipelines.app:build, args: [hunter2-hunter2-hunter2]}]",
        "applications: [{name: a, import_path: pipelines.app:build, args: hunter2-hunter2-hunter2}]",
        "applications: [{name: a, import_path: pipelines.app:build, secret: hunter2-hunter2-hunter2}]",
        "applications: [{name: a, import_path: pipelines.app:build, runtime_env: KEY=hunter2-hunter2-hunter2}]",
        "applications: [{name: a, import_path: pipelines.app:build, args: {api_key: hunter2-hunter2-hunter2}}]",
        "applications: [{name: a, import_path: pipelines.app:build, args: {limits: {key: hunter2-hunter2-hunter2}}}]",
    ],
)
def test_a_file_at_fault_is_not_quoted(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path / "config.yaml")
    assert "hunter2" not in refused.value.message


def test_the_embedded_servers_folder_is_the_users_own_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "run"
    own.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    assert embedded_directory("a") == own / "triptych-a"
    assert socket_url("a") == f"unix://{own}/triptych-a/redis.sock"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")  # as where TMPDIR's disk is full
    for unusable in ("relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        assert embedded_directory("a").parent in (tmp_path, Path(f"/run/user/{os.getuid()}"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    own.chmod(0o755)
    assert embedded_directory("a").parent in (tmp_path, Path(f"/run/user/{os.getuid()}"))
    assert embedded_directory("a") != embedded_directory("b")


def test_the_url_of_redis_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:hunter2/of@cache\n")
    config = parse(changed("cache.redis", {"url_file": str(file)}))
    assert AppConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ConfigurationError, match=r"cache\.redis\.url_file: not the URL") as refused:
        cache_spec(config, "a").open()
    assert "hunter2" not in refused.value.message
    file.write_text("redis://:hunter2@127.0.0.1:1\n")
    opened = cache_spec(config, "a").open()
    assert "hunter2" not in f"{cache_spec(config, 'a')} {vars(opened)}"
    opened.close()
