"""A configuration is sound or refused in words, whatever is wrong with it: no other error, and no secret in what is said."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.settings.config_file import load, parse, serve_document
from pipelines.settings.schema.config import AppConfig
from stages.contract.errors import ConfigurationError
from tests.fuzz.effort import effort
from tests.fuzz.mutations import VALUES, altered, mutated

SHIPPED = (Path(__file__).parents[2] / "serve_config.yaml").read_text()
DOCUMENT = yaml.safe_load(SHIPPED)
ARGS = DOCUMENT["applications"][0]["args"]
SECRET = "pass-word-0123456789"
SECRETS = {
    **ARGS,
    "auth": {"keys": {f"sha256:{'0' * 64}": "ada"}},
    "cache": {"redis": {"url": f"redis://:{SECRET}@host:6379/0"}},
}
WORDS = st.sampled_from(
    ["cpu", "auto", "triptych-see.llm", "triptych-see", "llm", "denoiser", "redis", "demo", "folder", "10", "../x"]
)


def parsed(args: Any) -> AppConfig | ConfigurationError:
    try:
        return parse(args)
    except ConfigurationError as error:
        return error


@effort(100)
@given(altered([ARGS], VALUES | WORDS))
def test_changed_settings_are_sound_or_refused_in_words(args: Any) -> None:
    found = parsed(args)
    if isinstance(found, ConfigurationError):
        assert str(found).startswith("configuration refused:\n  ")
    else:
        assert parse(found.model_dump(mode="json", exclude_unset=True)) == found


@effort(100)
@given(altered([SECRETS], VALUES | WORDS))
def test_what_is_refused_tells_no_password(args: Any) -> None:
    found = parsed(args)
    assert not isinstance(found, ConfigurationError) or SECRET not in str(found)


@effort(100)
@given(altered([DOCUMENT], VALUES | WORDS))
def test_a_changed_file_becomes_serves_configuration_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, document: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=False))
    tried(path)


@effort(100)
@given(
    mutated([SHIPPED.encode()], [b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system ", b"? ", b"- ", b"\t", b"\x85"])
)
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(data)
    tried(path)


def tried(path: Path) -> None:
    with suppress(ConfigurationError):
        serve_document(load(path))


@effort(50)
@given(st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=3))
def test_what_is_no_configuration_at_all_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        parse(value)
