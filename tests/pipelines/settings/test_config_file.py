"""What a configuration file must be: a Serve config of which one application is Triptych's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings.config_file import load, parse
from pipelines.settings.schema.config import AppConfig
from stages.contract.errors import ConfigurationError
from tests.pipelines.settings.shipped import SHIPPED, shipped_args


@pytest.mark.parametrize(
    ("text", "told"),
    [("applications: []", "found 0"), ("a: [", "not YAML"), ("just text", "found 0")],
)
def test_a_file_that_is_no_serve_config_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        load(path)


def written(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The shipped file with a change."""
    document = yaml.safe_load(SHIPPED.read_text())
    change(document)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


SERVES_OWN = [
    ({"http_options": {"port": "abc"}}, "http_options.port: .*integer.* .given: 'abc'."),
    ({"http_options": {"port": 70000}}, "http_options.port: .*65535.* .given: 70000."),
    ({"http_options": {"host": None}}, "http_options.host: .*string.* .given: None."),
    ({"http_options": 5}, "http_options: .*"),
    ({"proxy_location": "x"}, "proxy_location: .*'HeadOnly'.* .given: 'x'."),
    ({"applications": "x"}, "applications: .*list.*"),
    ({"applications": ["x"]}, "applications.0: .*dictionary.*"),
]


@pytest.mark.parametrize(("change", "told"), SERVES_OWN, ids=[str(change) for change, _ in SERVES_OWN])
def test_serves_own_settings_are_refused_in_a_line_each_too(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^configuration refused:\n  {told}$"):
        load(written(tmp_path, lambda document: document.update(change)))


ENTRY = [
    ({"name": None}, "applications.name: .*string.* .given: None."),
    ({"name": ""}, "applications.name: .* .given: ''."),
    ({"args": [1]}, "applications.args: .*dictionary.*"),
    ({"runtime_env": "x"}, "applications.runtime_env: .*dictionary.*"),
    ({"route_prefix": "/chat"}, "applications.route_prefix: Input should be '/' .given: '/chat'."),
    ({"route_prefix": None}, "applications.route_prefix: Input should be '/' .given: None."),
    ({"autoscaling_policy": {"x": 1}}, "applications.autoscaling_policy: Extra inputs .*"),
]


@pytest.mark.parametrize(("change", "told"), ENTRY, ids=[str(change) for change, _ in ENTRY])
def test_what_triptychs_application_cannot_mean_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^configuration refused:\n  {told}$"):
        load(written(tmp_path, lambda document: document["applications"][0].update(change)))


def test_a_setting_of_serves_that_is_empty_is_serves_default(tmp_path: Path) -> None:
    file = load(written(tmp_path, lambda document: document.update(http_options=None, proxy_location=None)))
    assert (file.http.port, dict(file.options)) == (8000, {})


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_parsing_a_parsed_configuration_changes_nothing() -> None:
    config = parse(shipped_args())
    assert parse(config) is config
    assert AppConfig.model_validate(config.model_dump()) == config
