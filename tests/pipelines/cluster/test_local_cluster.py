"""What is refused before a cluster is started or changed."""

from typing import Any

import pytest

from pipelines.cluster.local_cluster import HttpAddress, refuse_unknown_to_serve
from pipelines.settings.config_file import HttpConfig, ServeFile, parse
from stages.contract.errors import ConfigurationError

CONFIG = parse({"models": {"clip": {"pipeline": "embed", "embedder": {"source": {"demo": "clip"}}}}})


def file(options: dict[str, Any], others: tuple[dict[str, Any], ...] = ()) -> ServeFile:
    return ServeFile(http=HttpConfig(), app_name="test", app=CONFIG, options=options, others=others)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"http_options": {"request_timeout_s": "soon"}}, r"http_options\.request_timeout_s: .*number"),
        ({"logging_config": {"encoding": "x"}}, r"logging_config\.encoding: .*TEXT"),
        ({"grpc_options": 5}, "grpc_options: "),
    ],
)
def test_what_serve_itself_would_refuse_is_told_in_a_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^configuration refused:\n  {told}[^\n]*$"):
        refuse_unknown_to_serve(file(options))


def test_another_application_that_serve_would_refuse_is_told_too() -> None:
    with pytest.raises(ConfigurationError, match=r"applications\.0\.import_path"):
        refuse_unknown_to_serve(file({}, ({"name": "other"},)))


def test_what_serve_knows_passes() -> None:
    refuse_unknown_to_serve(file({"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": 8001}}))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("localhost", "http://localhost:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_the_address_that_is_told_can_be_opened(host: str, url: str) -> None:
    assert HttpAddress(host, 8000).url == url
